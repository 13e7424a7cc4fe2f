// The float kernels in plain C++.
#include "floats.hpp"

#include "vec_scalar.hpp"

#include "math_body.hpp"
#include "rows_body.hpp"

namespace nearfield {

const Floats scalar_floats = {normalise, gate};

}  // namespace nearfield
