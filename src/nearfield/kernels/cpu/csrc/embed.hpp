// Rows of a table that is packed for multiplying, so that it need not be kept twice.
#pragma once

#include "runtime.hpp"

namespace nearfield {

// y [count, k] = rows `tokens` of `table`: floats as they are, codes times their row's scale, rounded once.
// Throws std::out_of_range for a token that is not in [0, n), std::invalid_argument where scales belong to groups of columns.
void embed(Runtime& runtime, const Weights& table, const std::int64_t* tokens, std::int64_t count, float* y);

}  // namespace nearfield
