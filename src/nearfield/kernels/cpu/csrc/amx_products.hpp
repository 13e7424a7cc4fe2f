// Products of bf16 tiles on AMX, as attention has them: queries by keys, 32 dimensions a step, and weights by values, 16 keys
// a step.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "amx_tiles.hpp"
#include "attention.hpp"

namespace nearfield {
namespace {

using Half = std::uint16_t;

constexpr int kSide = 16;        // rows of a tile of AMX, and words of its rows
constexpr int kTwo = 2 * kSide;  // queries that are multiplied beside each other

// Tiles for `queries` of up to 16: 0 .. 3 hold sums, 4 has queries by 32 dimensions and 6 as many by 16 keys; 5 has the
// weights of 16 keys and 7 as many by 16 dimensions.
inline void configure_products(int queries) {
    TileShapes shapes(queries);
    shapes.row_bytes[5] = 2 * kKeys;
    shapes.rows[7] = kKeys / 2;
    configure(shapes);
}

// What products multiply: rows of a left side by two right sides of 16 columns, and how far on the next step's are.
struct Sides {
    const Half *left, *right[2];
    std::int64_t left_stride, left_step, right_stride, right_step;  // halves
    const Half* ahead[2];  // lines to ask for meanwhile, as many as right sides have; none: null
};

inline void ask(const Half* line, int lines, std::int64_t stride) {
    for (int i = 0; i < lines; ++i) __builtin_prefetch(line + stride * i);
}

// The intrinsics write numbers of tiles into the text of instructions, so each is a statement of its own.
template <bool Scores>
inline __attribute__((always_inline)) void load_left(const Half* rows, std::int64_t bytes) {
    if (Scores) _tile_loadd(4, rows, bytes);
    if (!Scores) _tile_loadd(5, rows, bytes);
}
template <bool Scores>
inline __attribute__((always_inline)) void load_right(const Half* rows, std::int64_t bytes) {
    if (Scores) _tile_loadd(6, rows, bytes);
    if (!Scores) _tile_loadd(7, rows, bytes);
}
template <bool Scores, int Sum>
inline __attribute__((always_inline)) void add_product() {
    if (Scores && Sum == 0) _tile_dpbf16ps(0, 4, 6);
    if (Scores && Sum == 1) _tile_dpbf16ps(1, 4, 6);
    if (Scores && Sum == 2) _tile_dpbf16ps(2, 4, 6);
    if (Scores && Sum == 3) _tile_dpbf16ps(3, 4, 6);
    if (!Scores && Sum == 0) _tile_dpbf16ps(0, 5, 7);
    if (!Scores && Sum == 1) _tile_dpbf16ps(1, 5, 7);
    if (!Scores && Sum == 2) _tile_dpbf16ps(2, 5, 7);
    if (!Scores && Sum == 3) _tile_dpbf16ps(3, 5, 7);
}

// Sums (tiles 0 to 3) of T times 16 rows by two right sides: of scores (tiles 4 and 6), or of weights times V (5 and 7).
template <int T, bool Scores>
inline void product(Sides of, std::int64_t steps) {
    constexpr int kLines = Scores ? 16 : 8;
    const std::int64_t line = Scores ? of.right_stride : kChunk;  // V's lines lie side by side in pages of any size
    const std::int64_t bytes = of.left_stride * 2, right = of.right_stride * 2;
    const Half* below = of.left + kSide * of.left_stride;
    for (std::int64_t i = 0; i < steps; ++i) {
        if (of.ahead[0]) ask(of.ahead[0] + i * kLines * line, kLines, line);
        if (of.ahead[1]) ask(of.ahead[1] + i * kLines * line, kLines, line);
        load_left<Scores>(of.left, bytes);
        load_right<Scores>(of.right[0], right);
        add_product<Scores, 0>();
        load_right<Scores>(of.right[1], right);
        add_product<Scores, 1>();
        if (T == 2) {
            load_left<Scores>(below, bytes);
            add_product<Scores, 3>();
            load_right<Scores>(of.right[0], right);
            add_product<Scores, 2>();
        }
        of.left += of.left_step;
        below += of.left_step;
        of.right[0] += of.right_step;
        of.right[1] += of.right_step;
    }
}

template <int T>
inline void begin_sums() {
    __asm__ volatile("" ::: "memory");  // GCC 12 does not say of its intrinsics that tiles are loaded from memory
    _tile_zero(0);
    _tile_zero(1);
    if (T == 2) _tile_zero(2);
    if (T == 2) _tile_zero(3);
}

template <int T>
inline void leave(float* out, std::int64_t stride, bool both) {
    const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(float));
    _tile_stored(0, out, bytes);
    if (both) _tile_stored(1, out + 16, bytes);
    if (T == 1) return;
    _tile_stored(2, out + kSide * stride, bytes);
    if (both) _tile_stored(3, out + kSide * stride + 16, bytes);
}

}  // namespace
}  // namespace nearfield
