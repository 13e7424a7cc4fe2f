// Dense weights in AVX2.
#include "vec_avx2.hpp"

#include "dense_body.hpp"

namespace nearfield {
namespace {

// Sums take two registers each, of 16.
struct Sizes {
    static constexpr int kStreams = 2, kBlocks = 1, kPanels = 1;
    static constexpr bool kFew = false;
};

}  // namespace

const DenseKernels avx2_fp32 = {"fp32", Plain::kWords, kPanel, pack<Plain>, multiply<Plain, Sizes>};
const DenseKernels avx2_bf16 = {"bf16-fma", Widened::kWords, kPanel, pack<Widened>, multiply<Widened, Sizes>};

}  // namespace nearfield
