// What happens to a row of floats before it is multiplied by a matrix, over any Vec.
#pragma once

#include <cstdint>

namespace nearfield {
namespace {

// out = x / sqrt(mean(x^2) + eps) * weight. Sums of squares in 16 lanes, folded once.
inline void normalise(const float* x, const float* weight, float eps, std::int64_t n, float* out) {
    Vec squares = zeros();
    for (std::int64_t i = 0; i < n; i += 16) {
        const Vec part = load(x + i, n - i);
        squares = fma(part, part, squares);
    }
    const Vec mean = all(sum(squares)) / all(static_cast<float>(n));
    const Vec inverse = all(1.0f) / root(mean + all(eps));
    for (std::int64_t i = 0; i < n; i += 16) {
        store(out + i, load(x + i, n - i) * inverse * load(weight + i, n - i), n - i);
    }
}

// out [n] = silu(x[0 .. n-1]) * x[n .. 2n-1].
inline void gate(const float* x, std::int64_t n, float* out) {
    for (std::int64_t i = 0; i < n; i += 16) store(out + i, silu(load(x + i, n - i)) * load(x + n + i, n - i), n - i);
}

}  // namespace
}  // namespace nearfield
