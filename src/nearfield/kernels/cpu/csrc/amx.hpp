// What the AMX kernels share. Included by their translation units only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "job.hpp"

namespace nearfield {
namespace {

// Tiles for `tokens` of up to 16: 0 .. 3 hold sums, 4 and 5 activations, a row of 64 bytes for each token;
// 6 and 7 hold weights, 16 rows of 64 bytes. Written out because GCC 12's intrinsic reads eight bytes alone.
inline void configure(int tokens) {
    struct alignas(64) Config {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    for (int tile = 0; tile < 6; ++tile) config.rows[tile] = static_cast<std::uint8_t>(tokens);
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

}  // namespace
}  // namespace nearfield
