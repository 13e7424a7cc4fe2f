// 16-bit floats to fp32, exactly, and an exact fused multiply-add for processors that have none.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

static_assert(FLT_EVAL_METHOD == 0, "float and double must be rounded to their own precision");

namespace nearfield {
namespace {

inline float float_of_bf16(std::uint16_t half) {
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float float_of_f16(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t exponent = half >> 10 & 31u, fraction = half & 1023u;
    if (exponent == 0) {
        const float value = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -value : value;
    }
    // Scales are finite (checked when packed), so exponent 31 does not occur.
    const std::uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// a * b + c rounded once. The product of two floats is exact in double. Their sum with c is rounded to
// odd, which keeps what a second rounding needs to know, and then to float.
inline float fused_multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    const double product = static_cast<double>(a) * static_cast<double>(b);
    const double addend = c;
    double sum = product + addend;
    if (!(sum - sum == 0.0)) return static_cast<float>(sum);  // an infinity or NaN
    const double part = sum - product;
    const double error = (product - (sum - part)) + (addend - part);
    std::int64_t bits;
    std::memcpy(&bits, &sum, sizeof bits);
    if (error != 0.0 && (bits & 1) == 0) {
        bits += (error > 0.0) == (sum > 0.0) ? 1 : -1;
        std::memcpy(&sum, &bits, sizeof sum);
    }
    return static_cast<float>(sum);
#endif
}

}  // namespace
}  // namespace nearfield
