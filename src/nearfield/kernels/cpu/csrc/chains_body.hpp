// Products of attention over any Vec: scores, and weights times V, as one chain of fused multiply-adds each. K and V are
// the same to a multiplication: rows of numbers, each multiplied by one number of each query.
#pragma once

#include "tile_body.hpp"

namespace nearfield {
namespace {

// Queries whose outputs the loops below update together.
struct Queries {
    const float* q;   // [count, kQueryStride]
    float* outputs;   // [count, width]
    float* largest;   // [count]
    float* lanes;     // [count, 16]
    std::int64_t size, width;

    Queries from(std::int64_t first) const {
        return {q + first * kQueryStride, outputs + first * width, largest + first, lanes + first * 16, size, width};
    }
};

// sums[r][c] += factors[r * S + i] * rows[c][i * stride ...], i ascending over [first, n) by Step. Meanwhile what comes
// `soon` is asked for to the L1 cache, and at `ahead` as many numbers as two columns have to the L2 cache: in the order
// of their addresses, which the processor's own prefetching follows.
template <int S, int Step, bool Ask, int R, int C, class T>
inline __attribute__((always_inline)) void multiply(Vec (&sums)[R][C], const float* factors, const T* const (&rows)[C],
                                                    const T* const (&soon)[C], const T* ahead, std::int64_t stride,
                                                    std::int64_t first, std::int64_t n) {
    for (std::int64_t i = first; i < n; i += Step) {
        if (Ask) {
            for (std::size_t at = 0; at < 2 * 16; at += kLine / sizeof(T)) {
                __builtin_prefetch(ahead + 2 * 16 * i + at, 0, 2);
            }
        }
        Vec row[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            row[c] = load(rows[c] + i * stride);
            if (Ask) __builtin_prefetch(soon[c] + i * stride);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Vec factor = all(factors[r * S + i]);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) accumulate(sums[r][c], factor, row[c]);
        }
    }
}

template <int R, int C>
inline void zero(Vec (&sums)[R][C]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[r][c] = zeros();
    }
}

// scores[r][16 part ...] of C parts, half of the dimensions after the other.
template <int R, int C, bool Ask, class T>
inline void score(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, int part, float* scores) {
    Vec sums[R][C];
    zero(sums);
    const std::int64_t half = queries.size / 2;
    const T *rows[C], *later[C], *after[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
        rows[c] = tile.k[part + c];
        later[c] = rows[c] + half * tile.k_stride;
        after[c] = part + C < kParts ? tile.k[(part + C + c) % kParts] : tile.v[c];
    }
    if (Ask) {
        const T* const* ahead = next.k + part / 2 * 2;
        multiply<kQueryStride, 1, Ask>(sums, queries.q, rows, later, ahead[0], tile.k_stride, 0, half);
        multiply<kQueryStride, 1, Ask>(sums, queries.q + half, later, after, ahead[1], tile.k_stride, 0, half);
    } else {
        multiply<kQueryStride, 1, Ask>(sums, queries.q, rows, rows, rows[0], tile.k_stride, 0, queries.size);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) store(scores + r * kTile + 16 * (part + c), sums[r][c]);
    }
}

// outputs[r][16 column ...] of C columns = what they were times less[r] + weights times V, keys [from, to).
template <int R, int C, bool Ask, class T>
inline void mix(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, int column, std::int64_t from,
                std::int64_t to, const float* less, const float* weights) {
    float* outputs = queries.outputs + 16 * column;
    Vec sums[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[r][c] = load(outputs + r * queries.width + 16 * c) * all(less[r]);
    }
    for (std::int64_t at = from, end; at < to; at = end) {
        end = Ask && at / 16 * 16 + 16 < to ? at / 16 * 16 + 16 : to;
        const std::int64_t skipped = at % 16 * tile.v_stride;
        const T *rows[C], *soon[C];
        const bool last = at >= kTile - 16;
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            rows[c] = tile.v[at / 16] + skipped + 16 * (column + c);
            soon[c] = last ? tile.v[0] + 16 * (column + C + c) : tile.v[at / 16 + 1] + 16 * (column + c);
        }
        // What was asked for before this, in rows of 32 numbers, of which a quarter of the tile has size / 2.
        const std::int64_t asked = column * 32 + at, quarter = queries.size / 2;
        const T* ahead = next.v[asked / quarter % kParts] + asked % quarter * 32;
        multiply<kTile, 1, Ask>(sums, weights + at, rows, soon, ahead, tile.v_stride, 0, end - at);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) store(outputs + r * queries.width + 16 * c, sums[r][c]);
    }
}

}  // namespace
}  // namespace nearfield
