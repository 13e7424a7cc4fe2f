// The float kernels in plain C++.
#include "floats.hpp"

#include "vec_scalar.hpp"

#include "math_body.hpp"
#include "round_body.hpp"
#include "rows_body.hpp"
#include "sample_body.hpp"

namespace nearfield {

const Floats scalar_floats = {normalise, gate, maxima, masses, weigh, round_row};

}  // namespace nearfield
