// Attention in plain C++.
#include "attention.hpp"

#include "vec_scalar.hpp"

#include "math_body.hpp"
#include "rows_body.hpp"

#include "attention_body.hpp"
#include "heads_body.hpp"

namespace nearfield {

const AttentionKernels scalar_attention = {prepare, span, clear, merge, finish};

}  // namespace nearfield
