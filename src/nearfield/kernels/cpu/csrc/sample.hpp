// Choosing a token from logits: greedy, or by inverse CDF over what top-k, top-p and min-p leave.
// reference/sampling.py says what each filter means.
#pragma once

#include "runtime.hpp"

namespace nearfield {

// How to choose from one row; laid out as kernels.py packs it.
struct SampleRow {
    double temperature, top_p, min_p;
    std::int64_t top_k;
    std::uint64_t seed, position, answer;
};

// One token of [0, v) for each row of logits [rows, v], `stride` floats apart. The token depends on nothing but
// the row. A row without a finite logit gets 0; NaN and infinity give some token.
std::vector<std::int64_t> sample(Runtime& runtime, const float* logits, std::int64_t v, std::int64_t stride,
                                 const std::vector<SampleRow>& rows);

}  // namespace nearfield
