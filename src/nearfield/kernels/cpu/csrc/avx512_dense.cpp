// Dense weights in AVX-512.
#include "vec_avx512.hpp"

#include "dense_body.hpp"

#include "avx512_sizes.hpp"

namespace nearfield {

const DenseKernels avx512_fp32 = {"cpu-fp32-v1", Plain::kWords, kPanel, pack<Plain>, multiply<Plain, Sizes>};
const DenseKernels avx512_bf16 = {"cpu-bf16-fma-v1", Widened::kWords, kPanel, pack<Widened>, multiply<Widened, Sizes>};

}  // namespace nearfield
