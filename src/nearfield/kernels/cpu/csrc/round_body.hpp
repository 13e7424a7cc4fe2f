// Rounding to nearest with a search for the scale, over any Vec: the bits of reference/rounding.py, which says
// what it is. Squared errors are summed in 16 lanes, column i in lane i % 16, ascending, then folded in halves.
#pragma once

#include <cstring>

#include "floats.hpp"

namespace nearfield {
namespace {

// A positive number no larger than fp16's largest, to the nearest fp16, half to even: added to a power of two
// it keeps as many bits as an fp16 of its size has.
inline float nearest_half(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits &= 0x7f800000u;
    const std::uint32_t smallest = 113u << 23;  // 2^-14: below it fp16 keeps fewer bits
    bits = (bits < smallest ? smallest : bits) + (13u << 23);
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return (x + power) - power;
}

inline float stored(float scale, bool half) {
    if (half) scale = nearest_half(scale < 65504.0f ? scale : 65504.0f);
    return scale >= 0x1p-126f ? scale : 1.0f;
}

// Weights to codes, by one scale: multiplied by its inverse, since divisions would take half the time.
struct Rounder {
    Vec inverse, low, high;

    Rounder(float scale, const RoundJob& job)
        : inverse(all(1.0f) / all(scale)), low(all(job.low)), high(all(job.high)) {}

    Vec operator()(Vec x) const {
        const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
        return (least(greatest(x * inverse, low), high) + shift) - shift;
    }
};

// Up to 16 of the n numbers that follow.
template <class T>
inline Vec part_of(const T* x, std::int64_t n) {
    return n < 16 ? load(x, n) : load(x);
}

template <class T>
inline float error_of(const T* x, float scale, const RoundJob& job) {
    const Rounder codes(scale, job);
    Vec squares = zeros();
    for (std::int64_t i = 0; i < job.group; i += 16) {
        const Vec part = part_of(x + i, job.group - i);
        const Vec error = codes(part) * all(scale) - part;
        squares = squares + error * error;
    }
    return sum(squares);
}

// The largest size; `bad` turns NaN where a number is not finite.
template <class T>
inline float peak_of(const T* x, std::int64_t n, Vec& bad) {
    Vec peak = zeros();
    for (std::int64_t i = 0; i < n; i += 16) {
        const Vec part = part_of(x + i, n - i);
        peak = greatest(peak, greatest(part, zeros() - part));
        bad = fma(part, zeros(), bad);
    }
    return largest(peak);
}

template <class T>
inline void round_group(const T* x, const RoundJob& job, std::int8_t* codes, float* chosen, Vec& bad) {
    const float shares[] = {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, 0.75f};
    const float span = peak_of(x, job.group, bad) / job.high;
    float least_error = __builtin_inff(), best = 1.0f;
    for (const float share : shares) {
        const float scale = stored(span * share, job.half), error = error_of(x, scale, job);
        if (error < least_error) {
            least_error = error;
            best = scale;
        }
    }
    *chosen = best;
    const Rounder code(best, job);
    for (std::int64_t i = 0; i < job.group; i += 16) {
        store(codes + i, code(part_of(x + i, job.group - i)), job.group - i);
    }
}

template <class T>
inline bool round_row_of(const T* x, const RoundJob& job, std::int8_t* codes, float* scales) {
    Vec bad = zeros();
    for (std::int64_t i = 0; i < job.k; i += job.group) round_group(x + i, job, codes + i, scales++, bad);
    return sum(bad) == 0.0f;
}

bool round_row(const RoundJob& job, std::int64_t row) {
    std::int8_t* codes = job.codes + row * job.k;
    float* scales = job.scales + row * (job.k / job.group);
    const std::int64_t start = row * job.stride;
    if (job.bf16) return round_row_of(static_cast<const std::uint16_t*>(job.weights) + start, job, codes, scales);
    return round_row_of(static_cast<const float*>(job.weights) + start, job, codes, scales);
}

}  // namespace
}  // namespace nearfield
