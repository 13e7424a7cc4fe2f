// What the AMX kernels share. Included by their translation units only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "amx_tiles.hpp"
#include "avx512.hpp"
#include "job.hpp"

namespace nearfield {

void amx_linear_rows(const LinearJob& job, const Part& part, std::uint8_t* scratch);
void amx_linear_groups(const LinearJob& job, const Part& part, std::uint8_t* scratch);

namespace {

constexpr int kTokens = 2 * kTileTokens;  // of a step: two tiles of activations by two blocks of rows

// Tiles for `tokens` of up to 16: 0 .. 3 hold sums, 4 and 5 activations, a row of 64 bytes for each token;
// 6 and 7 hold weights, 16 rows of 64 bytes.
inline void configure(int tokens) { configure(TileShapes(tokens)); }

// Two blocks of rows, `row` and `second` the first of each; without a second one, the first stands in.
struct Pair {
    const std::uint8_t* data[2];
    std::int64_t row, second;
    int blocks;
};

inline Pair pair_at(const LinearJob& job, std::int64_t block, std::int64_t last) {
    const Weights& w = job.weights;
    const int blocks = job.gated || last - block >= 2 ? 2 : 1;
    const std::int64_t second = blocks == 2 ? block + to_second(job) : block;
    const auto data = [&](std::int64_t at) { return w.data + static_cast<std::size_t>(at) * w.block_bytes; };
    return {{data(block), data(second)}, block * kRows, second * kRows, blocks};
}

// int32 sums of two blocks of rows by two tiles of tokens.
struct alignas(64) Dots {
    std::int32_t of[2][2][kTileTokens][kRows];  // by tile of tokens, then block
};

// Sums that begin at zero, or where they were left.
template <int T>
inline void begin(const Dots* before) {
    if (!before) {
        _tile_zero(0);
        _tile_zero(1);
        if (T == 2) _tile_zero(2);
        if (T == 2) _tile_zero(3);
        return;
    }
    _tile_loadd(0, before->of[0][0], 64);
    _tile_loadd(1, before->of[0][1], 64);
    if (T == 2) _tile_loadd(2, before->of[1][0], 64);
    if (T == 2) _tile_loadd(3, before->of[1][1], 64);
}

template <int T>
inline void leave(Dots& dots) {
    _tile_stored(0, dots.of[0][0], 64);
    _tile_stored(1, dots.of[0][1], 64);
    if (T == 2) _tile_stored(2, dots.of[1][0], 64);
    if (T == 2) _tile_stored(3, dots.of[1][1], 64);
}

// What tiles multiply: activations [token][column] in plain rows, and the codes of two blocks.
struct Factors {
    const std::int8_t* acts;
    std::int64_t stride;
    const std::uint8_t* blocks[2];

    Factors at(std::int64_t column) const {
        return {acts + column, stride, {blocks[0] + column * kRows, blocks[1] + column * kRows}};
    }
};

// Adds the products of the first 64 columns by T tiles of tokens to the sums. Codes are signed bytes or unsigned.
// Those of two tiles pass by the L1 cache, which is left to the weights: all tokens need them again. Those of a single one
// stay there: all weights need them again.
template <int T, bool Signed>
inline void multiply(const Factors& of) {
    if (T == 1) _tile_loadd(4, of.acts, of.stride);
    if (T == 2) _tile_stream_loadd(4, of.acts, of.stride);
    _tile_loadd(6, of.blocks[0], 64);
    if (Signed) _tile_dpbssd(0, 4, 6);
    if (!Signed) _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, of.blocks[1], 64);
    if (Signed) _tile_dpbssd(1, 4, 7);
    if (!Signed) _tile_dpbsud(1, 4, 7);
    if (T == 1) return;
    _tile_stream_loadd(5, of.acts + kTileTokens * of.stride, of.stride);
    if (Signed) _tile_dpbssd(2, 5, 6);
    if (!Signed) _tile_dpbsud(2, 5, 6);
    if (Signed) _tile_dpbssd(3, 5, 7);
    if (!Signed) _tile_dpbsud(3, 5, 7);
}

}  // namespace
}  // namespace nearfield
