// The shapes of AMX's eight tiles. Included by translation units of AMX only.
#pragma once

#include <cstdint>

namespace nearfield {
namespace {

struct alignas(64) TileShapes {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};

    // Sums in 0 .. 3 and left sides in 4 and 5, of so many rows; right sides in 6 and 7.
    explicit TileShapes(int left_rows) {
        for (int tile = 0; tile < 6; ++tile) rows[tile] = static_cast<std::uint8_t>(left_rows);
    }
};

// Written out because GCC 12's intrinsic reads eight bytes alone.
inline void configure(const TileShapes& shapes) { __asm__ volatile("ldtilecfg %0" : : "m"(shapes)); }

}  // namespace
}  // namespace nearfield
