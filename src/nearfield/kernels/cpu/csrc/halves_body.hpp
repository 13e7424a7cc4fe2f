// The same products where K and V are bf16: chunks, whose even and odd terms are summed apart. The tile lies in the cache,
// where rows are pairs of halves in turn, or as floats in scratch.
#pragma once

#include "chains_body.hpp"

namespace nearfield {
namespace {

template <class T>
constexpr std::int64_t kAcross = sizeof(T) == 2 ? 2 : 1;  // rows in turn

// even[r][c] and odd[r][c] += factors[r * S + i] * row i, terms [first, last) of a chunk, by which of them i is.
template <int S, int R, int C>
inline __attribute__((always_inline)) void multiply_in_turn(Vec (&even)[R][C], Vec (&odd)[R][C], const float* factors,
                                                            const float* const (&rows)[C], const float* const (&soon)[C],
                                                            const float* ahead, std::int64_t stride, std::int64_t first,
                                                            std::int64_t last) {
    multiply<S, 2, false>(even, factors, rows, soon, ahead, stride, first + first % 2, last);
    multiply<S, 2, false>(odd, factors, rows, soon, ahead, stride, first + 1 - first % 2, last);
}

// As much of one pair as is asked for: a term beside the chunk must not meet a weight of zero (decision 002).
template <int S, bool Even, bool Odd, int R, int C>
inline __attribute__((always_inline)) void multiply_pair(Vec (&even)[R][C], Vec (&odd)[R][C], const float* factors,
                                                         const std::uint16_t* const (&rows)[C], std::int64_t stride,
                                                         std::int64_t i) {
    Vec low[C], high[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) load_halves(rows[c] + i * stride, high[c], low[c]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            if (Even) accumulate(even[r][c], all(factors[r * S + 2 * i]), low[c]);
            if (Odd) accumulate(odd[r][c], all(factors[r * S + 2 * i + 1]), high[c]);
        }
    }
}

// Meanwhile what comes `soon` is asked for to the L1 cache, and a line for each row at `ahead` to the L2 cache.
template <int S, int R, int C>
inline __attribute__((always_inline)) void multiply_in_turn(Vec (&even)[R][C], Vec (&odd)[R][C], const float* factors,
                                                            const std::uint16_t* const (&rows)[C],
                                                            const std::uint16_t* const (&soon)[C],
                                                            const std::uint16_t* ahead, std::int64_t stride,
                                                            std::int64_t first, std::int64_t last) {
    if (first % 2) multiply_pair<S, false, true>(even, odd, factors, rows, stride, first / 2);
    for (std::int64_t i = (first + 1) / 2; i < last / 2; ++i) {
        __builtin_prefetch(ahead + 2 * 16 * i, 0, 2);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) __builtin_prefetch(soon[c] + i * stride);
        multiply_pair<S, true, true>(even, odd, factors, rows, stride, i);
    }
    if (last % 2) multiply_pair<S, true, false>(even, odd, factors, rows, stride, last / 2);
}

// out[r * S + 16 c ...] += even[r][c] + odd[r][c].
template <int S, int R, int C>
inline void add_chunk(const Vec (&even)[R][C], const Vec (&odd)[R][C], float* out) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            float* at = out + r * S + 16 * c;
            store(at, load(at) + (even[r][c] + odd[r][c]));
        }
    }
}

// scores[r][16 part ...] of C parts.
template <int R, int C, class T>
inline void score_halves(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, int part, float* scores) {
    const std::int64_t stride = tile.k_stride;
    for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) store(scores + r * kTile + 16 * (part + c), zeros());
    }
    for (std::int64_t at = 0; at < queries.size; at += kChunk) {
        const std::int64_t row = at / kAcross<T>;
        const T *rows[C], *soon[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            rows[c] = tile.k[part + c] + row * stride;
            const T* after = part + C < kParts ? tile.k[part + C] : tile.v[0];
            soon[c] = at + kChunk < queries.size ? rows[c] + kChunk / kAcross<T> * stride : after;
        }
        Vec even[R][C], odd[R][C];
        zero(even);
        zero(odd);
        const T* ahead = kAcross<T> == 2 ? next.k[part] + 2 * 16 * row : nullptr;
        multiply_in_turn<kQueryStride>(even, odd, queries.q + at, rows, soon, ahead, stride, 0,
                                       smaller(kChunk, queries.size - at));
        add_chunk<kTile>(even, odd, scores + 16 * part);
    }
}

// outputs[r][16 column ...] of C columns = what they were times less[r] + what the chunks of keys in [from, to) come to.
template <int R, int C, class T>
inline void mix_halves(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, int column, std::int64_t from,
                       std::int64_t to, const float* less, const float* weights) {
    alignas(64) float mixed[R * 16 * C] = {};
    for (std::int64_t part = from / kKeys; part * kKeys < to; ++part) {
        const std::int64_t start = part * kKeys;
        const T *rows[C], *soon[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            rows[c] = tile.v[part] + kAcross<T> * 16 * (column + c);
            soon[c] = part + 1 < kParts ? tile.v[part + 1] + kAcross<T> * 16 * (column + c)
                                        : tile.v[0] + kAcross<T> * 16 * (column + C + c);
        }
        Vec even[R][C], odd[R][C];
        zero(even);
        zero(odd);
        const T* ahead = kAcross<T> == 2 ? next.v[part] + 16 * kKeys * column : nullptr;
        multiply_in_turn<kTile>(even, odd, weights + start, rows, soon, ahead, tile.v_stride, larger(from - start, 0),
                                smaller(to - start, kKeys));
        add_chunk<16 * C>(even, odd, mixed);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            float* output = queries.outputs + r * queries.width + 16 * (column + c);
            store(output, fma(load(output), all(less[r]), load(mixed + 16 * (r * C + c))));
        }
    }
}

}  // namespace
}  // namespace nearfield
