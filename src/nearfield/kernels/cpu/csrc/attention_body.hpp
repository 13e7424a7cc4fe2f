// Attention of queries to one span of positions, over any Vec; attention.hpp says what is computed. K and V are the
// same to a multiplication: rows of numbers, each multiplied by one number of each query.
#pragma once

#include "attention.hpp"
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

// sums[r][c] += factors[r * S + i] * rows[c][i * stride ...], i ascending over [0, n). Meanwhile what comes `soon` is
// asked for to the L1 cache, and at `ahead` as many numbers as two columns have to the L2 cache: in the order of their
// addresses, which the processor's own prefetching follows.
template <int S, bool Ask, int R, int C, class T>
inline __attribute__((always_inline)) void multiply(Vec (&sums)[R][C], const float* factors, const T* const (&rows)[C],
                                                    const T* const (&soon)[C], const T* ahead, std::int64_t stride,
                                                    std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
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

// scores[r][16 part ...] of C parts, half of the dimensions after the other.
template <int R, int C, bool Ask, class T>
inline void score(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, int part, float* scores) {
    Vec sums[R][C];
    const std::int64_t half = queries.size / 2;
    const T *rows[C], *later[C], *after[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
        rows[c] = tile.k[part + c];
        later[c] = rows[c] + half * tile.k_stride;
        after[c] = part + C < kParts ? tile.k[(part + C + c) % kParts] : tile.v[c];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[r][c] = zeros();
    }
    if (Ask) {
        const T* const* ahead = next.k + part / 2 * 2;
        multiply<kQueryStride, Ask>(sums, queries.q, rows, later, ahead[0], tile.k_stride, half);
        multiply<kQueryStride, Ask>(sums, queries.q + half, later, after, ahead[1], tile.k_stride, half);
    } else {
        multiply<kQueryStride, Ask>(sums, queries.q, rows, rows, rows[0], tile.k_stride, queries.size);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) store(scores + r * kTile + 16 * (part + c), sums[r][c]);
    }
}

// The largest score of one query over its keys [from, to) of the tile. The scores of other keys become -infinity.
inline float highest(std::int64_t from, std::int64_t to, float* scores) {
    const Vec nothing = all(-__builtin_inff());
    const bool whole = to - from == kTile;
    Vec best = nothing;
    for (std::int64_t at = from / 16 * 16; at < to; at += 16) {
        Vec seen = load(scores + at);
        if (!whole) {
            seen = lanes(seen, from - at, to - at, nothing);
            store(scores + at, seen);
        }
        best = greatest(seen, best);
    }
    return largest(best);
}

// The largest scores of R queries so far, and what their sums and outputs are to be multiplied by: one where the tile's
// are not larger. No branch: it could not be foretold, and a product with one is exact.
template <int R>
inline void raise(const Queries& queries, std::int64_t from, std::int64_t to, float* scores, float* less) {
    alignas(64) float tops[16];
    for (int r = 0; r < R; ++r) tops[r] = highest(from, to, scores + r * kTile);
    const Vec before = load(queries.largest, R), now = greatest(load(tops, R), before);
    store(less, where_less(before, now, exponential_of_bounded(before - now), all(1.0f)));
    store(queries.largest, now, R);
}

// Scores to weights, in place; those of -infinity to zero.
inline void weigh(const Queries& query, std::int64_t from, std::int64_t to, float less, float* scores) {
    const Vec top = all(*query.largest);
    Vec sums = load(query.lanes) * all(less);
    for (std::int64_t at = from / 16 * 16; at < to; at += 16) {
        const Vec weights = exponential_of_bounded(load(scores + at) - top);
        store(scores + at, weights);
        sums = sums + weights;
    }
    store(query.lanes, sums);
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
        multiply<kTile, Ask>(sums, weights + at, rows, soon, ahead, tile.v_stride, end - at);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) store(outputs + r * queries.width + 16 * c, sums[r][c]);
    }
}

// R queries that see keys [from, to) of the tile. `next` is asked for meanwhile.
template <int R, int C, bool Ask, class T>
void attend(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, std::int64_t from, std::int64_t to) {
    alignas(64) float scores[R * kTile], less[16];
    const int last = static_cast<int>(to + 15) / 16;
    int part = static_cast<int>(from) / 16;
    for (; part + C <= last; part += C) score<R, C, Ask>(queries, tile, next, part, scores);
    for (; part < last; ++part) score<R, 1, Ask>(queries, tile, next, part, scores);
    raise<R>(queries, from, to, scores, less);
    for (int r = 0; r < R; ++r) weigh(queries.from(r), from, to, less[r], scores + r * kTile);
    const int columns = static_cast<int>(queries.width / 16);
    int column = 0;
    for (; column + C <= columns; column += C) {
        mix<R, C, Ask>(queries, tile, next, column, from, to, less, scores);
    }
    for (; C > 2 && column + 2 <= columns; column += 2) {
        mix<R, 2, Ask>(queries, tile, next, column, from, to, less, scores);
    }
    for (; column < columns; ++column) mix<R, 1, Ask>(queries, tile, next, column, from, to, less, scores);
}

// The same for `count` of them, at most R.
template <int R, int C, bool Ask, class T>
void attend_some(std::int64_t count, const Queries& queries, const Tile<T>& tile, const Ahead<T>& next,
                 std::int64_t from, std::int64_t to) {
    if constexpr (R > 1) {
        if (count < R) return attend_some<R - 1, C, Ask>(count, queries, tile, next, from, to);
    }
    attend<R, C, Ask>(queries, tile, next, from, to);
}

// The same for any number, in even groups of at most R.
template <int R, int C, bool Ask, class T>
void attend_groups(std::int64_t count, const Queries& queries, const Tile<T>& tile, const Ahead<T>& next,
                   std::int64_t from, std::int64_t to) {
    const std::int64_t groups = (count + R - 1) / R;
    for (std::int64_t group = 0; group < groups; ++group) {
        const std::int64_t first = count * group / groups, last = count * (group + 1) / groups;
        attend_some<R, C, Ask>(last - first, queries.from(first), tile, next, from, to);
    }
}

template <bool Ask, class T>
void attend_all(std::int64_t count, const Queries& queries, const Tile<T>& tile, const Ahead<T>& next,
                std::int64_t from, std::int64_t to) {
    if constexpr (!Ask) {
        if (to - from == kTile) {
            return attend_groups<kTogetherCopied, kColumnsCopied, Ask>(count, queries, tile, next, from, to);
        }
    }
    attend_groups<kTogether, kColumns, Ask>(count, queries, tile, next, from, to);
}

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// The first position that the query at `position` sees.
inline std::int64_t first_seen(const SpanJob& job, std::int64_t position) {
    return job.window ? larger(0, position - job.window + 1) : 0;
}

// One tile, whose first position is `start`. Queries of different tokens go together where all see all of it: a key
// that one of them does not see must not meet it, since a weight of zero lets NaN and infinity through.
template <bool Ask, class T>
void attend_tile(const SpanJob& job, const Queries& queries, std::int64_t start, const Tile<T>& tile,
                 const Ahead<T>& next) {
    const std::int64_t last = job.start + job.tokens - 1;
    if (first_seen(job, last) <= start && start + kTile <= job.start + 1) {
        return attend_all<Ask>(job.tokens * job.shared, queries, tile, next, 0, kTile);
    }
    for (std::int64_t token = 0; token < job.tokens; ++token) {
        const std::int64_t position = job.start + token;
        const std::int64_t from = larger(0, first_seen(job, position) - start);
        const std::int64_t to = smaller(kTile, position + 1 - start);
        if (from < to) attend_all<Ask>(job.shared, queries.from(token * job.shared), tile, next, from, to);
    }
}

// The span's tiles from the one of `low` on, up to `high`: beyond the last key that any token sees. All heads of a tile
// come together, since they lie side by side.
template <class T>
void attend_in_place(const SpanJob& job, const Queries& queries, std::int64_t low, std::int64_t high) {
    Tile<T> tile = in_place<T>(job, low / kTile * kTile);
    for (std::int64_t start = low / kTile * kTile; start < high; start += kTile) {
        const Tile<T> next = in_place<T>(job, start + kTile);
        Walk walk(job);
        for (std::int64_t head = 0; head < job.heads; ++head) {
            const Queries own = queries.from(head * job.tokens * job.shared);
            attend_tile<true>(job, own, start, of_head(job, tile, head), walk.next(next));
        }
        tile = next;
    }
}

template <class T>
void attend_copied(const SpanJob& job, const Queries& queries, std::int64_t low, std::int64_t high, float* scratch) {
    SpanJob one = job;
    for (std::int64_t start = low / kTile * kTile; start < high; start += kTile) {
        for (std::int64_t head = 0; head < job.heads; ++head) {
            one.head = job.head + head;
            Tile<float> tile;
            copied<T>(one, larger(low, start), smaller(high, start + kTile), scratch, tile);
            attend_tile<false>(one, queries.from(head * job.tokens * job.shared), start, tile, {});
        }
    }
}

template <class T>
void attend_span(const SpanJob& job, const Queries& queries, float* scratch) {
    const std::int64_t low = larger(first_seen(job, job.start), job.span * kSpan);
    const std::int64_t high = smaller(job.start + job.tokens, (job.span + 1) * kSpan);
    const bool aligned = job.kv.page % 16 == 0 && job.kv.size % 16 == 0;
    if (aligned && (!job.kv.bf16 || job.tokens * job.shared <= kFew)) {
        attend_in_place<T>(job, queries, low, high);
    } else {
        attend_copied<T>(job, queries, low, high, scratch);
    }
}

void span(const SpanJob& job, float* results, float* scratch) {
    const std::int64_t count = job.tokens * job.shared, all_heads = job.heads * count, size = job.kv.size;
    const std::int64_t width = width_of(job.kv);
    float* outputs = scratch;
    float* q = outputs + all_heads * width;
    float* lanes = q + all_heads * kQueryStride;
    float* largest = lanes + all_heads * 16;
    for (std::int64_t query = 0; query < all_heads; ++query) {
        const float* from = job.q + query / count * job.q_stride + query % count * size;
        for (std::int64_t i = 0; i < size; i += 16) store(q + query * kQueryStride + i, load(from + i, size - i));
        for (std::int64_t i = 0; i < width; i += 16) store(outputs + query * width + i, zeros());
        store(lanes + query * 16, zeros());
        largest[query] = -__builtin_inff();
    }
    const Queries queries{q, outputs, largest, lanes, size, width};
    float* tile = largest + (all_heads + 15) / 16 * 16;
    if (job.kv.bf16) {
        attend_span<std::uint16_t>(job, queries, tile);
    } else {
        attend_span<float>(job, queries, tile);
    }
    for (std::int64_t query = 0; query < all_heads; ++query) {
        const Result result = result_at(results + query / count * result_floats(job.kv, count), job.kv, count);
        const std::int64_t at = query % count;
        for (std::int64_t i = 0; i < width; i += 16) {
            store(result.outputs + at * width + i, load(outputs + query * width + i));
        }
        result.largest[at] = largest[query];
        result.sums[at] = sum(load(lanes + query * 16));
    }
}

void clear(const Result& total, std::int64_t queries, std::int64_t width) {
    for (std::int64_t i = 0; i < queries * width; i += 16) store(total.outputs + i, zeros());
    for (std::int64_t query = 0; query < queries; ++query) {
        total.largest[query] = -__builtin_inff();
        total.sums[query] = 0.0f;
    }
}

void merge(const Result& total, const Result& part, std::int64_t queries, std::int64_t width) {
    for (std::int64_t query = 0; query < queries; ++query) {
        // A query that sees nothing of the span: adding zeros would turn -0 into 0.
        if (part.sums[query] == 0.0f) continue;
        const Vec before = all(total.largest[query]), now = all(part.largest[query]), top = greatest(before, now);
        const Vec keep = exponential_of_bounded(before - top), add = exponential_of_bounded(now - top);
        store(total.largest + query, top, 1);
        store(total.sums + query, fma(all(part.sums[query]), add, all(total.sums[query]) * keep), 1);
        float* outputs = total.outputs + query * width;
        for (std::int64_t i = 0; i < width; i += 16) {
            store(outputs + i, fma(load(part.outputs + query * width + i), add, load(outputs + i) * keep));
        }
    }
}

void finish(const Result& total, std::int64_t queries, std::int64_t size, float* out) {
    const std::int64_t width = (size + 15) / 16 * 16;
    for (std::int64_t query = 0; query < queries; ++query) {
        const Vec whole = all(total.sums[query]);
        for (std::int64_t i = 0; i < size; i += 16) {
            store(out + query * size + i, load(total.outputs + query * width + i) / whole, size - i);
        }
    }
}

}  // namespace
}  // namespace nearfield
