// Dense weights in plain C++.
#include "vec_scalar.hpp"

#include "dense_body.hpp"

namespace nearfield {
namespace {

// As small as they can be: sums are in memory here anyway.
struct Sizes {
    static constexpr int kStreams = 1, kBlocks = 1, kPanels = 1;
    static constexpr bool kFew = false;
};

}  // namespace

const DenseKernels scalar_fp32 = {"fp32", Plain::kWords, kPanel, pack<Plain>, multiply<Plain, Sizes>};
const DenseKernels scalar_bf16 = {"bf16-fma", Widened::kWords, kPanel, pack<Widened>, multiply<Widened, Sizes>};

}  // namespace nearfield
