// Attention of queries to one span of positions, over any Vec; attention.hpp says what is computed. `Halves` is the
// arithmetic of caches of bf16, wherever their tile was copied to.
#pragma once

#include "attention.hpp"
#include "halves_body.hpp"

namespace nearfield {
namespace {

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

// From the tile's `tops` of up to 16 queries: the largest scores so far, and what sums and outputs are to be multiplied
// by, one where the tile's are not larger. No branch: it could not be foretold, and a product with one is exact.
inline void raise(const float* tops, std::int64_t count, float* largest, float* less) {
    const Vec before = load(largest, count), now = greatest(load(tops, count), before);
    store(less, where_less(before, now, power(before - now), all(1.0f)));
    store(largest, now, count);
}

// Scores to weights, in place; those of -infinity to zero.
template <bool Halves>
inline void weigh(const Queries& query, std::int64_t from, std::int64_t to, float less, float* scores) {
    const Vec top = all(*query.largest);
    Vec sums = load(query.lanes) * all(less);
    for (std::int64_t at = from / 16 * 16; at < to; at += 16) {
        const Vec weights = power(load(scores + at) - top);
        store(scores + at, Halves ? rounded(weights) : weights);
        sums = sums + weights;
    }
    store(query.lanes, sums);
}

template <bool Halves, int R, int C, bool Ask, class T>
inline void score_any(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, int part, float* scores) {
    if constexpr (Halves) {
        score_halves<R, C>(queries, tile, next, part, scores);
    } else {
        score<R, C, Ask>(queries, tile, next, part, scores);
    }
}
template <bool Halves, int R, int C, bool Ask, class T>
inline void mix_any(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, int column, std::int64_t from,
                    std::int64_t to, const float* less, const float* weights) {
    if constexpr (Halves) {
        mix_halves<R, C>(queries, tile, next, column, from, to, less, weights);
    } else {
        mix<R, C, Ask>(queries, tile, next, column, from, to, less, weights);
    }
}

// R queries that see keys [from, to) of the tile. `next` is asked for meanwhile.
template <bool Halves, int R, int C, bool Ask, class T>
void attend(const Queries& queries, const Tile<T>& tile, const Ahead<T>& next, std::int64_t from, std::int64_t to) {
    alignas(64) float scores[R * kTile], tops[16], less[16];
    const int last = static_cast<int>(to + 15) / 16;
    int part = static_cast<int>(from) / 16;
    for (; part + C <= last; part += C) score_any<Halves, R, C, Ask>(queries, tile, next, part, scores);
    for (; part < last; ++part) score_any<Halves, R, 1, Ask>(queries, tile, next, part, scores);
    for (int r = 0; r < R; ++r) tops[r] = highest(from, to, scores + r * kTile);
    raise(tops, R, queries.largest, less);
    for (int r = 0; r < R; ++r) weigh<Halves>(queries.from(r), from, to, less[r], scores + r * kTile);
    const int columns = static_cast<int>(queries.width / 16);
    int column = 0;
    for (; column + C <= columns; column += C) {
        mix_any<Halves, R, C, Ask>(queries, tile, next, column, from, to, less, scores);
    }
    for (; C > 2 && column + 2 <= columns; column += 2) {
        mix_any<Halves, R, 2, Ask>(queries, tile, next, column, from, to, less, scores);
    }
    for (; column < columns; ++column) mix_any<Halves, R, 1, Ask>(queries, tile, next, column, from, to, less, scores);
}

// The same for `count` of them, at most R.
template <bool Halves, int R, int C, bool Ask, class T>
void attend_some(std::int64_t count, const Queries& queries, const Tile<T>& tile, const Ahead<T>& next,
                 std::int64_t from, std::int64_t to) {
    if constexpr (R > 1) {
        if (count < R) return attend_some<Halves, R - 1, C, Ask>(count, queries, tile, next, from, to);
    }
    attend<Halves, R, C, Ask>(queries, tile, next, from, to);
}

// The same for any number, in even groups of at most R.
template <bool Halves, int R, int C, bool Ask, class T>
void attend_groups(std::int64_t count, const Queries& queries, const Tile<T>& tile, const Ahead<T>& next,
                   std::int64_t from, std::int64_t to) {
    const std::int64_t groups = (count + R - 1) / R;
    for (std::int64_t group = 0; group < groups; ++group) {
        const std::int64_t first = count * group / groups, last = count * (group + 1) / groups;
        attend_some<Halves, R, C, Ask>(last - first, queries.from(first), tile, next, from, to);
    }
}

template <bool Halves, bool Ask, class T>
void attend_all(std::int64_t count, const Queries& queries, const Tile<T>& tile, const Ahead<T>& next,
                std::int64_t from, std::int64_t to) {
    if constexpr (Halves && Ask) {
        attend_groups<true, kTogetherPairs, 1, Ask>(count, queries, tile, next, from, to);
    } else if constexpr (Halves) {
        attend_groups<true, kTogetherHalves, kColumnsHalves, Ask>(count, queries, tile, next, from, to);
    } else if (!Ask && to - from == kTile) {
        attend_groups<false, kTogetherCopied, kColumnsCopied, Ask>(count, queries, tile, next, from, to);
    } else {
        attend_groups<false, kTogether, kColumns, Ask>(count, queries, tile, next, from, to);
    }
}

// The first position that the query at `position` sees.
inline std::int64_t first_seen(const SpanJob& job, std::int64_t position) {
    return job.window ? larger(0, position - job.window + 1) : 0;
}

// One tile, whose first position is `start`. Queries of different tokens go together where all see all of it: a key
// that one of them does not see must not meet it, since a weight of zero lets NaN and infinity through.
template <bool Halves, bool Ask, class T>
void attend_tile(const SpanJob& job, const Queries& queries, std::int64_t start, const Tile<T>& tile,
                 const Ahead<T>& next) {
    const std::int64_t last = job.start + job.tokens - 1;
    if (first_seen(job, last) <= start && start + kTile <= job.start + 1) {
        return attend_all<Halves, Ask>(job.tokens * job.shared, queries, tile, next, 0, kTile);
    }
    for (std::int64_t token = 0; token < job.tokens; ++token) {
        const std::int64_t position = job.start + token;
        const std::int64_t from = larger(0, first_seen(job, position) - start);
        const std::int64_t to = smaller(kTile, position + 1 - start);
        if (from < to) attend_all<Halves, Ask>(job.shared, queries.from(token * job.shared), tile, next, from, to);
    }
}

// What a span's queries have: results of each head, and q and lanes of all heads.
struct Spanned {
    float* results;
    const float* q;  // [queries of all heads, kQueryStride]
    float* lanes;    // [queries of all heads, 16]
};

inline Queries queries_of(const SpanJob& job, const Spanned& spanned, std::int64_t head) {
    const std::int64_t count = job.tokens * job.shared, first = head * count;
    const Result own = result_at(spanned.results + head * result_floats(job.kv, count), job.kv, count);
    return {spanned.q + first * kQueryStride, own.outputs, own.largest, spanned.lanes + first * 16, job.kv.size,
            width_of(job.kv)};
}

// The span's tiles from the one of `low` on, up to `high`: beyond the last key that any token sees. All heads of a tile
// come together, since they lie side by side.
template <class T>
void attend_in_place(const SpanJob& job, const Spanned& spanned, std::int64_t low, std::int64_t high) {
    Tile<T> tile = in_place<T>(job, low / kTile * kTile);
    for (std::int64_t start = low / kTile * kTile; start < high; start += kTile) {
        const Tile<T> next = in_place<T>(job, start + kTile);
        Walk walk(job);
        for (std::int64_t head = 0; head < job.heads; ++head) {
            const Queries own = queries_of(job, spanned, head);
            attend_tile<sizeof(T) == 2, true>(job, own, start, of_head(job, tile, head), walk.next(next));
        }
        tile = next;
    }
}

template <class T>
void attend_copied(const SpanJob& job, const Spanned& spanned, std::int64_t low, std::int64_t high, float* scratch) {
    SpanJob one = job;
    for (std::int64_t start = low / kTile * kTile; start < high; start += kTile) {
        for (std::int64_t head = 0; head < job.heads; ++head) {
            one.head = job.head + head;
            Tile<float> tile;
            copied<T>(one, larger(low, start), smaller(high, start + kTile), scratch, tile);
            attend_tile<sizeof(T) == 2, false>(one, queries_of(job, spanned, head), start, tile, {});
        }
    }
}

template <class T>
void attend_span(const SpanJob& job, const Spanned& spanned, float* scratch) {
    const std::int64_t low = larger(first_seen(job, job.start), job.span * kSpan);
    const std::int64_t high = smaller(job.start + job.tokens, (job.span + 1) * kSpan);
    const bool aligned = job.kv.page % 16 == 0 && job.kv.size % 16 == 0;
    if (aligned && (!job.kv.bf16 || job.tokens * job.shared <= kFew)) {
        attend_in_place<T>(job, spanned, low, high);
    } else {
        attend_copied<T>(job, spanned, low, high, scratch);
    }
}

inline void begin_results(const SpanJob& job, const Spanned& spanned) {
    const std::int64_t count = job.tokens * job.shared;
    for (std::int64_t head = 0; head < job.heads; ++head) {
        const Queries own = queries_of(job, spanned, head);
        for (std::int64_t i = 0; i < count * own.width; i += 16) store(own.outputs + i, zeros());
        for (std::int64_t i = 0; i < count; ++i) {
            store(own.lanes + i * 16, zeros());
            own.largest[i] = -__builtin_inff();
        }
    }
}

inline void end_results(const SpanJob& job, const Spanned& spanned) {
    const std::int64_t count = job.tokens * job.shared;
    for (std::int64_t head = 0; head < job.heads; ++head) {
        const Queries own = queries_of(job, spanned, head);
        const Result result = result_at(own.outputs, job.kv, count);
        for (std::int64_t i = 0; i < count; ++i) result.sums[i] = sum(load(own.lanes + i * 16));
    }
}

void span(const SpanJob& job, float* results, float* scratch) {
    const std::int64_t count = job.tokens * job.shared, all_heads = job.heads * count, size = job.kv.size;
    float* q = scratch;
    float* lanes = q + all_heads * kQueryStride;
    float* tile = lanes + all_heads * 16;
    for (std::int64_t query = 0; query < all_heads; ++query) {
        const float* from = job.q + query / count * job.q_stride + query % count * size;
        for (std::int64_t i = 0; i < size; i += 16) store(q + query * kQueryStride + i, load(from + i, size - i));
    }
    const Spanned spanned{results, q, lanes};
    begin_results(job, spanned);
    if (job.kv.bf16) {
        attend_span<std::uint16_t>(job, spanned, tile);
    } else {
        attend_span<float>(job, spanned, tile);
    }
    end_results(job, spanned);
}

void clear(const Result& total, std::int64_t queries, std::int64_t width) {
    for (std::int64_t i = 0; i < queries * width; i += 16) store(total.outputs + i, zeros());
    for (std::int64_t query = 0; query < queries; ++query) {
        total.largest[query] = -__builtin_inff();
        total.sums[query] = 0.0f;
    }
}

void merge(const Result& total, const Result& part, std::int64_t queries, std::int64_t width) {
    for (std::int64_t first = 0; first < queries; first += 16) {
        const std::int64_t count = smaller(16, queries - first);
        const Vec before = load(total.largest + first, count), now = load(part.largest + first, count);
        const Vec top = greatest(before, now), keep = power(before - top), add = power(now - top);
        const Vec sums = fma(load(part.sums + first, count), add, load(total.sums + first, count) * keep);
        alignas(64) float tops[16], all_sums[16], keeps[16], adds[16];
        store(tops, top);
        store(all_sums, sums);
        store(keeps, keep);
        store(adds, add);
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t query = first + i;
            // A query that sees nothing of the span: adding zeros would turn -0 into 0.
            if (part.sums[query] == 0.0f) continue;
            total.largest[query] = tops[i];
            total.sums[query] = all_sums[i];
            const Vec own = all(keeps[i]), more = all(adds[i]);
            float* outputs = total.outputs + query * width;
            for (std::int64_t at = 0; at < width; at += 16) {
                store(outputs + at, fma(load(part.outputs + query * width + at), more, load(outputs + at) * own));
            }
        }
    }
}

void finish(const Result& total, std::int64_t queries, std::int64_t size, float* out) {
    const std::int64_t width = (size + 15) / 16 * 16;
    for (std::int64_t query = 0; query < queries; ++query) {
        const Vec whole = all(total.sums[query]);
        for (std::int64_t i = 0; i < size; i += 16) {
            store(out + query * size + i, one_nan(load(total.outputs + query * width + i) / whole), size - i);
        }
    }
}

}  // namespace
}  // namespace nearfield
