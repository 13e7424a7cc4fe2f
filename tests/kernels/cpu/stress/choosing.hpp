// Random rows of logits and matrices to round, through every instruction set; see stress.cpp.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "round.hpp"
#include "sample.hpp"

namespace choosing {

using Random = std::mt19937;
using Runtimes = std::vector<std::unique_ptr<nearfield::Runtime>>;

inline std::int64_t between(Random& random, std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

inline std::vector<float> numbers(Random& random, std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    std::normal_distribution<float> normal;
    for (float& value : values) value = 4 * normal(random);
    return values;
}

// Whether all choose alike, rows with NaN and infinities among them.
inline bool tokens_agree(Random& random, const Runtimes& runtimes) {
    const std::int64_t count = between(random, 0, 5), v = between(random, 0, 3) ? between(random, 1, 300) : 20000;
    std::vector<float> logits = numbers(random, count * v);
    const float odd[] = {NAN, -NAN, INFINITY, -INFINITY, 0.0f, 1.0f};
    for (float& logit : logits) {
        if (count % 2 && between(random, 0, 2) == 0) logit = odd[between(random, 0, 5)];
    }
    std::vector<nearfield::SampleRow> rows(static_cast<std::size_t>(count));
    for (nearfield::SampleRow& row : rows) {
        row = {between(random, 0, 3) / 2.0, between(random, 0, 1) ? 1.0 : 0.9, between(random, 0, 2) ? 0.0 : 0.01,
               between(random, 0, 1) ? 0 : between(random, 1, 1000), random(), random(), 0};
    }
    const auto expected = nearfield::sample(*runtimes[0], logits.data(), v, v, rows);
    for (const auto& runtime : runtimes) {
        if (nearfield::sample(*runtime, logits.data(), v, v, rows) == expected) continue;
        std::printf("other tokens: %s, %d threads, rows=%d v=%d\n", runtime->isa(), runtime->threads(), int(count),
                    int(v));
        return false;
    }
    return true;
}

// Whether all round alike.
inline bool codes_agree(Random& random, const Runtimes& runtimes) {
    const std::int64_t n = between(random, 0, 9), group = between(random, 1, 140), k = group * between(random, 1, 5);
    const std::vector<float> wide = numbers(random, n * k);
    const bool bf16 = between(random, 0, 1), four = between(random, 0, 1);
    std::vector<std::uint16_t> narrow(wide.size());
    for (std::size_t i = 0; i < wide.size(); ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, &wide[i], sizeof bits);
        narrow[i] = static_cast<std::uint16_t>(bits >> 16);
    }
    const void* weights = bf16 ? static_cast<const void*>(narrow.data()) : wide.data();
    std::vector<std::int8_t> codes(wide.size()), expected_codes;
    std::vector<float> scales(static_cast<std::size_t>(n * k / group)), expected_scales;
    for (const auto& runtime : runtimes) {
        const nearfield::RoundJob job{weights, bf16, k, k, group, four ? -8.0f : -127.0f, four ? 7.0f : 127.0f, four,
                                      codes.data(), scales.data()};
        const bool finite = nearfield::round_to_nearest(*runtime, job, n);
        if (runtime == runtimes.front()) {
            expected_codes = codes;
            expected_scales = scales;
        }
        if (finite && codes == expected_codes && scales == expected_scales) continue;
        std::printf("other codes: %s, %d threads, n=%d k=%d group=%d bf16=%d\n", runtime->isa(), runtime->threads(),
                    int(n), int(k), int(group), bf16);
        return false;
    }
    return true;
}

}  // namespace choosing
