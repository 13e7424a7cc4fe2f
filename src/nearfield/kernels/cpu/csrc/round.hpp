// Weights to codes and scales by rounding to nearest, in parallel over rows; see round_body.hpp.
#pragma once

#include "runtime.hpp"

namespace nearfield {

// Quantises rows [0, n). False where one has a number that is not finite.
bool round_to_nearest(Runtime& runtime, const RoundJob& job, std::int64_t n);

}  // namespace nearfield
