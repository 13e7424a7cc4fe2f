// Attention to bf16 K and V on AMX: the bits of attention_body.hpp, by products of 16 queries, 32 dimensions and 16 keys,
// and of 16 queries, 16 keys and 16 dimensions. A product sums its even and its odd terms apart and adds both, which is
// a chunk's arithmetic (attention.hpp). K and V are multiplied as they lie in the cache, where pages allow it.
#include "attention.hpp"

#include "vec_avx512.hpp"

#include "math_body.hpp"
#include "rows_body.hpp"

#include "attention_body.hpp"
#include "heads_body.hpp"

#include "amx_products.hpp"

namespace nearfield {
namespace {

// What a span's work takes, in scratch.
struct Space {
    Half* q;        // [heads * queries and more, depth]
    float* lanes;   // [heads * queries, 16]
    Half* k;        // [depth / 2, kTile, 2]
    Half* v;        // [kTile / 2, width, 2]
    float* scores;  // [2, kTwo, kTile]
    Half* weights;  // [kTwo, kTile]
    float* mixed;   // [kTwo, width]
    std::int64_t depth, width;  // the head size rounded up to 32, and to 16
};

Space space_of(const SpanJob& job, std::int64_t queries, float* scratch) {
    Space space;
    space.depth = (job.kv.size + kChunk - 1) / kChunk * kChunk;
    space.width = width_of(job.kv);
    const auto take = [&scratch](std::int64_t floats) {
        float* taken = scratch;
        scratch += floats;
        return taken;
    };
    const auto take_halves = [&take](std::int64_t halves) { return reinterpret_cast<Half*>(take(halves / 2)); };
    space.k = take_halves(kTile * space.depth);
    space.v = take_halves(kTile * space.width);
    space.scores = take(2 * kTwo * kTile);
    space.weights = take_halves(kTwo * kTile);
    space.mixed = take(kTwo * space.width);
    space.q = take_halves((queries + kTwo) * space.depth);
    space.lanes = take(queries * 16);
    return space;
}

// The numbers of words [n] of rows in turn, those of `seen` in each word.
inline __m512i words(const Half* row, std::int64_t n, std::uint32_t seen) {
    const __m512i read = _mm512_maskz_loadu_epi32(first_lanes(n), row);
    return _mm512_and_si512(read, _mm512_set1_epi32(static_cast<int>(seen)));
}

// K of positions [low, high) to `space`, of the tile that begins at `start`. Other keys are what they were: their scores
// are not used. Dimensions beyond the last are zero from the beginning.
void copy_k(const SpanJob& job, std::int64_t start, std::int64_t low, std::int64_t high, const Space& space) {
    const std::int64_t page = job.kv.page, pairs = job.kv.size / 2;
    for (std::int64_t at = low, n; at < high; at += n) {
        n = smaller(high - at, smaller(page - at % page, 16));
        const Half* from = static_cast<const Half*>(job.kv.k) + page_start(job, at) + at % page * 2;
        Half* to = space.k + (at - start) * 2;
        for (std::int64_t i = 0; i < pairs; ++i, from += 2 * page, to += 2 * kTile) {
            _mm512_mask_storeu_epi32(to, first_lanes(n), words(from, n, 0xffffffff));
        }
    }
}

// V of positions [low, high) to `space`, zeros for others up to the end of the last part; whether all of it is finite.
bool copy_v(const SpanJob& job, std::int64_t start, std::int64_t low, std::int64_t high, const Space& space) {
    const std::int64_t page = job.kv.page, size = job.kv.size, width = space.width;
    const __m512i infinite = _mm512_set1_epi16(0x7f80);
    __mmask32 bad = 0;
    for (std::int64_t at = start, end = (high + kKeys - 1) / kKeys * kKeys; at < end; at += 2) {
        const bool first = at >= low && at < high, second = at + 1 >= low && at + 1 < high;
        const std::uint32_t seen = (first ? 0xffffu : 0) | (second ? 0xffff0000u : 0);
        const Half* from = static_cast<const Half*>(job.kv.v);
        if (seen) from += page_start(job, at) + at % page * size;
        Half* to = space.v + (at - start) * width;
        for (std::int64_t i = 0; i < size; i += 16) {
            const __m512i read = words(from + 2 * i, seen ? size - i : 0, seen);
            bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(read, infinite), infinite);
            _mm512_storeu_si512(to + 2 * i, read);
        }
    }
    return bad == 0;
}

// Which keys of a tile each query sees: all, or those [from, to) of its token.
struct Seen {
    std::int64_t parts;  // of the tile that have keys
    bool all;
    const SpanJob* job;
    std::int64_t start, query;  // the tile's first position, the first query's number

    std::int64_t position(std::int64_t i) const { return job->start + (query + i) / job->shared; }
    std::int64_t from(std::int64_t i) const { return first_seen(*job, position(i)) - start; }
    std::int64_t to(std::int64_t i) const { return position(i) + 1 - start; }
};

inline float top_of(const Seen& seen, std::int64_t query, float* scores) {
    const Vec nothing = all(-__builtin_inff());
    Vec best = nothing;
    if (seen.all) {
        for (int part = 0; part < kParts; ++part) best = greatest(load(scores + 16 * part), best);
        return largest(best);
    }
    const std::int64_t from = seen.from(query), to = seen.to(query);
    for (std::int64_t at = 0; at < 16 * seen.parts; at += 16) {
        const Vec kept = lanes(load(scores + at), from - at, to - at, nothing);
        store(scores + at, kept);
        best = greatest(kept, best);
    }
    return largest(best);
}

// As `weigh`, to halves, of all keys or of some parts.
template <bool All>
inline void weigh_halves(const Queries& query, std::int64_t parts, float less, const float* scores, Half* halves) {
    const Vec top = all(*query.largest);
    Vec sums = load(query.lanes) * all(less);
#pragma GCC unroll 4
    for (std::int64_t at = 0; at < (All ? kTile : 16 * parts); at += 16) {
        const Vec weights = power(load(scores + at) - top);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves + at), (__m256i)_mm512_cvtneps_pbh(weights.v));
        sums = sums + weights;
    }
    store(query.lanes, sums);
}

// One head of one tile, with what its queries are.
struct Work {
    const SpanJob& job;
    Queries queries;
    const Half* q;
    const Space& space;
    std::int64_t start;
};

// Up to 32 queries from the head's number `first` on, by one tile; where their scores are. `next` is asked for
// meanwhile, if it is not null.
struct Block {
    Seen seen;
    std::int64_t first, count;
    float* scores;  // [kTwo, kTile]
    const Tile<Half>* next;
};

template <int T>
void score_block(const Work& work, const Tile<Half>& tile, const Block& block) {
    const Space& space = work.space;
    const Tile<Half>* next = block.next;
    for (std::int64_t part = 0; part < block.seen.parts; part += 2) {
        const bool both = part + 1 < block.seen.parts;
        begin_sums<T>();
        product<T, true>({work.q + block.first * space.depth, {tile.k[part], tile.k[part + both]}, space.depth, kChunk,
                          tile.k_stride, kSide * tile.k_stride,
                          {next ? next->k[part] : nullptr, next && both ? next->k[part + 1] : nullptr}},
                         space.depth / kChunk);
        leave<T>(block.scores + 16 * part, kTile, both);
    }
}

// Scores to weights in `space`; less [kTwo] is what outputs are to be multiplied by.
void weigh_block(const Work& work, const Block& block, float* less) {
    const Queries queries = work.queries.from(block.first);
    alignas(64) float tops[16];
    for (std::int64_t first = 0; first < block.count; first += 16) {
        const std::int64_t last = smaller(first + 16, block.count);
        for (std::int64_t i = first; i < last; ++i) tops[i - first] = top_of(block.seen, i, block.scores + i * kTile);
        raise(tops, last - first, queries.largest + first, less + first);
        for (std::int64_t i = first; i < last; ++i) {
            const float* scores = block.scores + i * kTile;
            Half* weights = work.space.weights + i * kTile;
            if (block.seen.all) {
                weigh_halves<true>(queries.from(i), kParts, less[i], scores, weights);
            } else {
                weigh_halves<false>(queries.from(i), block.seen.parts, less[i], scores, weights);
            }
        }
    }
}

template <int T>
void mix_block(const Work& work, const Tile<Half>& tile, const Block& block, const float* less) {
    const Space& space = work.space;
    const Queries queries = work.queries.from(block.first);
    const Tile<Half>* next = block.next;
    for (std::int64_t column = 0; column < space.width; column += 2 * kSide) {
        const bool both = column + kSide < space.width;
        begin_sums<T>();
        for (std::int64_t part = 0; part < block.seen.parts; ++part) {
            const Half *v = tile.v[part] + 2 * column, *ahead = next ? next->v[part] + column * kKeys : nullptr;
            product<T, false>({space.weights + part * kKeys, {v, v + (both ? 2 * kSide : 0)}, kTile, 0, tile.v_stride, 0,
                               {ahead, both && next ? ahead + kSide * kKeys : nullptr}}, 1);
        }
        leave<T>(space.mixed + column, space.width, both);
    }
    for (std::int64_t i = 0; i < block.count; ++i) {
        const Vec by = all(less[i]);
        for (std::int64_t at = i * space.width; at < (i + 1) * space.width; at += 16) {
            store(queries.outputs + at, fma(load(queries.outputs + at), by, load(space.mixed + at)));
        }
    }
}

// Queries [first, last), numbered within the head, of which all see all of the tile, or some of `parts`. The products
// of one block come before the weights of the block before it, which need not wait for them.
void attend_queries(const Work& work, const Tile<Half>& tile, const Tile<Half>* next, std::int64_t first,
                    std::int64_t last, std::int64_t parts, bool all) {
    if (first >= last) return;
    alignas(64) float less[kTwo];
    const auto begin = [&](std::int64_t at) {
        const std::int64_t count = smaller(kTwo, last - at), buffer = (at - first) / kTwo % 2;
        const Block block{{parts, all, &work.job, work.start, at}, at, count, work.space.scores + buffer * kTwo * kTile,
                          at == first ? next : nullptr};
        count > kSide ? score_block<2>(work, tile, block) : score_block<1>(work, tile, block);
        return block;
    };
    const auto end = [&](const Block& block) {
        weigh_block(work, block, less);
        block.count > kSide ? mix_block<2>(work, tile, block, less) : mix_block<1>(work, tile, block, less);
    };
    Block block = begin(first);
    for (std::int64_t at = first + kTwo; at < last; at += kTwo) {
        const Block then = begin(at);
        end(block);
        block = then;
    }
    end(block);
}

// Positions [low, high) of one tile. V that some queries do not see all of is copied, and what nobody sees made zero.
// Where a key that some see and others do not is not finite, each token attends by itself to what it sees: a weight of
// zero would let it through.
void attend_one(const Work& work, Tile<Half> tile, const Tile<Half>* next, std::int64_t low, std::int64_t high) {
    const SpanJob& job = work.job;
    const Space& space = work.space;
    const std::int64_t start = work.start, shared = job.shared, last = job.start + job.tokens - 1;
    const std::int64_t parts = (high - start + 15) / 16;
    const bool whole = first_seen(job, last) <= start && start + kTile <= job.start + 1;
    if (!next) {
        copy_k(job, start, low, high, space);
        tile.k_stride = 2 * kTile;
        for (int part = 0; part < kParts; ++part) tile.k[part] = space.k + 2 * kSide * part;
    }
    const bool finite = next && whole ? true : copy_v(job, start, low, high, space);
    if (!next || !whole) {
        tile.v_stride = 2 * space.width;
        for (int part = 0; part < kParts; ++part) tile.v[part] = space.v + part * kKeys * space.width;
    }
    if (whole) return attend_queries(work, tile, next, 0, job.tokens * shared, kParts, true);
    const std::int64_t first = larger(0, start - job.start);
    std::int64_t end = job.tokens;
    while (end > first && first_seen(job, job.start + end - 1) >= start + kTile) --end;
    if (finite) return attend_queries(work, tile, next, first * shared, end * shared, parts, false);
    for (std::int64_t token = first; token < end; ++token) {
        const std::int64_t position = job.start + token, from = larger(start, first_seen(job, position));
        const std::int64_t to = smaller(start + kTile, position + 1);
        copy_v(job, start, from, to, space);
        attend_queries(work, tile, nullptr, token * shared, (token + 1) * shared, (to - start + 15) / 16, false);
    }
}

// All heads of a tile come together, as they lie side by side.
void attend_tiles(const SpanJob& job, const Spanned& spanned, const Space& space, std::int64_t low, std::int64_t high) {
    const bool aligned = job.kv.page % 16 == 0 && job.kv.size % kChunk == 0;
    const std::int64_t count = job.tokens * job.shared;
    SpanJob one = job;
    for (std::int64_t start = low / kTile * kTile; start < high; start += kTile) {
        const Tile<Half> tile = in_place<Half>(job, start), next = in_place<Half>(job, start + kTile);
        for (std::int64_t head = 0; head < job.heads; ++head) {
            one.head = job.head + head;
            const Tile<Half> ahead = head + 1 < job.heads ? of_head(job, tile, head + 1) : next;
            const Work work{one, queries_of(job, spanned, head), space.q + head * count * space.depth, space, start};
            attend_one(work, of_head(job, tile, head), aligned ? &ahead : nullptr, larger(low, start),
                       smaller(high, start + kTile));
        }
    }
}

void span_tiles(const SpanJob& job, float* results, float* scratch) {
    if (!job.kv.bf16) return span(job, results, scratch);
    const std::int64_t count = job.tokens * job.shared, all_heads = job.heads * count, size = job.kv.size;
    const Space space = space_of(job, all_heads, scratch);
    for (std::int64_t i = size * kTile; i < space.depth * kTile; ++i) space.k[i] = 0;
    for (std::int64_t query = 0; query < all_heads; ++query) {
        const float* from = job.q + query / count * job.q_stride + query % count * size;
        for (std::int64_t i = 0; i < space.depth; i += 16) {
            store(space.q + query * space.depth + i, load(from + i, i < size ? size - i : 0));
        }
    }
    // Q is the halves in `space`.
    const Spanned spanned{results, scratch, space.lanes};
    begin_results(job, spanned);
    configure_products(static_cast<int>(smaller(kSide, count)));
    attend_tiles(job, spanned, space, larger(first_seen(job, job.start), job.span * kSpan),
                 smaller(job.start + job.tokens, (job.span + 1) * kSpan));
    _tile_release();
    end_results(job, spanned);
}

}  // namespace

const AttentionKernels amx_attention = {prepare, span_tiles, clear, merge, finish};

}  // namespace nearfield
