// What choosing a token asks of every logit, over any Vec. Sums are in double, in 16 lanes a span, folded once.
#pragma once

#include "floats.hpp"

namespace nearfield {
namespace {

inline std::int64_t end_of_span(std::int64_t start, std::int64_t n) { return n - start < kSpread ? n : start + kSpread; }

void maxima(const float* x, std::int64_t n, float* out) {
    const Vec none = all(-__builtin_inff());
    for (std::int64_t start = 0; start < n; start += kSpread) {
        const std::int64_t end = end_of_span(start, n);
        Vec most = none, bad = zeros();  // a NaN or an infinity above makes `bad` NaN: times 0 it is one
        for (std::int64_t i = start; i < end; i += 16) {
            const Vec part = end - i < 16 ? lanes(load(x + i, end - i), 0, end - i, none) : load(x + i);
            most = greatest(most, part);
            bad = fma(greatest(zeros(), part), zeros(), bad);
        }
        *out++ = largest(most) + sum(bad);
    }
}

// The difference comes first: it is exact for the logits that matter, and cannot overflow.
inline Vec weight_of(Vec x, const Softness& how) {
    return exponential((x - all(how.peak)) / all(how.temperature));
}

void masses(const float* x, std::int64_t n, const Softness& how, double* out) {
    for (std::int64_t start = 0; start < n; start += kSpread) {
        const std::int64_t end = end_of_span(start, n);
        Sums sums = no_sums();
        for (std::int64_t i = start; i < end; i += 16) {
            const Vec weight = weight_of(load(x + i, end - i), how);
            add(sums, end - i < 16 ? lanes(weight, 0, end - i, zeros()) : weight);
        }
        *out++ = total(sums);
    }
}

void weigh(const float* x, std::int64_t n, const Softness& how, float* out) {
    for (std::int64_t i = 0; i < n; i += 16) store(out + i, weight_of(load(x + i, n - i), how), n - i);
}

}  // namespace
}  // namespace nearfield
