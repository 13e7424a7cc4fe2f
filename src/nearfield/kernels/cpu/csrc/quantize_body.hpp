// Activations to int8, in plain loops that each instruction set's flags vectorise for themselves.
// Every operation is exact or rounded once, in an order that does not matter, so all give the same bits:
//   peak  = max |x| over the group, as a maximum of integers (a float's bits order like its size)
//   scale = peak / 127, code = round-half-even(x * (127 / peak)), both divisions rounded once
// A group whose peak is below 2^-100 has scale 0 and codes 0. A group with a NaN or an infinity has
// scale NaN and codes 0, which makes every output of its token NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "job.hpp"

namespace nearfield {
namespace {

constexpr std::int32_t kInfinity = 0x7f800000;
constexpr std::int32_t kTiny = 0x0d800000;  // 2^-100: below it 127 / peak could overflow
constexpr std::int32_t kNan = 0x7fc00000;
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
constexpr std::int32_t kRounderBits = 0x4b400000;
constexpr std::int64_t kStep = 32;  // every group is a multiple of it

template <class To, class From>
inline To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From), "the same bits in another type");
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

inline std::int32_t peak_bits(const float* x, std::int64_t count) {
    std::int32_t lanes[kStep] = {};
    for (std::int64_t i = 0; i < count; i += kStep) {
        for (std::int64_t j = 0; j < kStep; ++j) {
            const std::int32_t bits = bits_of<std::int32_t>(x[i + j]) & 0x7fffffff;
            lanes[j] = bits > lanes[j] ? bits : lanes[j];
        }
    }
    std::int32_t peak = 0;
    for (std::int32_t lane : lanes) peak = lane > peak ? lane : peak;
    return peak;
}

// Writes the codes of 32 columns and returns their sum. `out` is the token's place in its panel.
inline std::int32_t encode(const float* x, float factor, std::int8_t* out, int width) {
    std::int8_t codes[kStep];
    std::int32_t sum = 0;
    for (std::int64_t j = 0; j < kStep; ++j) {
        const std::int32_t code = bits_of<std::int32_t>(x[j] * factor + kRounder) - kRounderBits;
        codes[j] = static_cast<std::int8_t>(code);
        sum += code;
    }
    if (width == 1) {
        std::memcpy(out, codes, sizeof codes);
    } else {
        for (std::int64_t j = 0; j < kStep; j += 4) std::memcpy(out + j * kPanel, codes + j, 4);
    }
    return sum;
}

// One group: its codes, and through the references its scale and the sum of its codes.
inline void quantize_group(const float* x, std::int64_t count, std::int8_t* out, int width, float& scale,
                           std::int32_t& sum) {
    const std::int32_t peak = peak_bits(x, count);
    sum = 0;
    if (peak >= kInfinity || peak < kTiny) {
        scale = bits_of<float>(peak >= kInfinity ? kNan : 0);
        for (std::int64_t i = 0; i < count; i += 4) std::memset(out + i * width, 0, 4);
        return;
    }
    scale = bits_of<float>(peak) / 127.0f;
    const float factor = 127.0f / bits_of<float>(peak);
    for (std::int64_t i = 0; i < count; i += kStep) sum += encode(x + i, factor, out + i * width, width);
}

void quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last) {
    const Acts& acts = job.acts;
    const std::int64_t groups = acts.k / acts.group, width = acts.width;
    for (std::int64_t token = first; token < last; ++token) {
        const std::int64_t panel = token / width, place = token % width;
        std::int8_t* codes = acts.codes + panel * width * acts.k + place * 4;
        for (std::int64_t g = 0; g < groups; ++g) {
            const std::int64_t at = (panel * groups + g) * width + place;
            std::int32_t sum;
            quantize_group(job.x + token * job.stride + g * acts.group, acts.group,
                           codes + g * acts.group * width, acts.width, acts.scales[at], sum);
            acts.offsets[at] = -job.zero * sum;
        }
    }
}

}  // namespace
}  // namespace nearfield
