// The float kernels in AVX-512.
#include "floats.hpp"

#include "vec_avx512.hpp"

#include "math_body.hpp"
#include "rows_body.hpp"

namespace nearfield {

const Floats avx512_floats = {normalise, gate};

}  // namespace nearfield
