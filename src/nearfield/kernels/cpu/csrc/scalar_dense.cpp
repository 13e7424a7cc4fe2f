// Dense weights in plain C++.
#include "vec_scalar.hpp"

#include "dense_body.hpp"

namespace nearfield {
namespace {

// As small as they can be: sums are in memory here anyway.
struct Sizes {
    static constexpr int kStreams = 1, kFew = 0, kBlocks = 1, kPanels = 1;
};

}  // namespace

const DenseKernels scalar_fp32 = {"cpu-fp32-v1", Single::kWords, pack<Single>, multiply<Single, Sizes>};
const DenseKernels scalar_bf16 = {"cpu-bf16-fma-v1", Widened::kWords, pack<Widened>, multiply<Widened, Sizes>};

}  // namespace nearfield
