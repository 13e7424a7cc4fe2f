// The float kernels that each instruction set brings: one source (the *_body.hpp), compiled for each.
#pragma once

#include <cstdint>

namespace nearfield {

constexpr std::int64_t kSpread = 64;  // logits that are summed up together

// Logits x become weights e^((x - peak) / temperature), the best one's being 1.
struct Softness {
    float peak, temperature;
};

// Rows of weights to codes low .. high, a scale for each group of columns; see round_body.hpp.
struct RoundJob {
    const void* weights;  // [n, k] bf16 or fp32, `stride` numbers between rows
    bool bf16;
    std::int64_t k, stride, group;
    float low, high;
    bool half;            // scales are rounded to fp16
    std::int8_t* codes;  // [n, k]
    float* scales;       // [n, k / group]
};

struct Floats {
    // out [n] = x [n] / sqrt(mean(x^2) + eps) * weight [n].
    void (*normalise)(const float* x, const float* weight, float eps, std::int64_t n, float* out);
    // out [n] = silu(x[0 .. n-1]) * x[n .. 2n-1].
    void (*gate)(const float* x, std::int64_t n, float* out);
    // out [ceil(n / kSpread)]: the largest of each span of x [n]; NaN for one with a NaN or plus infinity.
    void (*maxima)(const float* x, std::int64_t n, float* out);
    // out [ceil(n / kSpread)]: the sum of the weights of each span of x [n].
    void (*masses)(const float* x, std::int64_t n, const Softness& how, double* out);
    // out [n]: the weight of each of x [n].
    void (*weigh)(const float* x, std::int64_t n, const Softness& how, float* out);
    // Quantises one row; false where it has a number that is not finite.
    bool (*round_row)(const RoundJob& job, std::int64_t row);
};

extern const Floats avx512_floats, avx2_floats, scalar_floats;

}  // namespace nearfield
