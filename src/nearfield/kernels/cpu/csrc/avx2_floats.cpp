// The float kernels in AVX2.
#include "floats.hpp"

#include "vec_avx2.hpp"

#include "math_body.hpp"
#include "rows_body.hpp"

namespace nearfield {

const Floats avx2_floats = {normalise, gate};

}  // namespace nearfield
