// Attention in AVX-512.
#include "attention.hpp"

#include "vec_avx512.hpp"

#include "math_body.hpp"
#include "rows_body.hpp"

#include "attention_body.hpp"
#include "heads_body.hpp"

namespace nearfield {

const AttentionKernels avx512_attention = {prepare, span, clear, merge, finish};

}  // namespace nearfield
