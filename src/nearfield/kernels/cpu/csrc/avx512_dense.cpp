// Dense weights in AVX-512.
#include "vec_avx512.hpp"

#include "dense_body.hpp"

#include "avx512_sizes.hpp"

namespace nearfield {

const DenseKernels avx512_fp32 = {"fp32", Plain::kWords, kPanel, pack<Plain>, multiply<Plain, Sizes>};
const DenseKernels avx512_bf16 = {"bf16-fma", Widened::kWords, kPanel, pack<Widened>, multiply<Widened, Sizes>};

}  // namespace nearfield
