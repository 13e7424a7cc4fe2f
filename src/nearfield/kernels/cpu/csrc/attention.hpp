// Attention over paged K and V: what goes in, and what each instruction set brings. Only data and
// declarations: compiled under every instruction set's flags.
//
// The arithmetic, all in fp32 and by fused multiply-adds (fma), is one sequence for each query, whatever comes with it:
// 1. Each Q and K head is normalised where the family does (rows_body.hpp), then the pair (x, y) of its halves is
//    rotated: x' = fma(x, cos, -(y * sin)), y' = fma(y, cos, x * sin). Q is multiplied by float(log2(e) / sqrt(d)), so
//    that weights are powers of two. Where K and V are bf16, so is Q: all are rounded to it once (half to even), what
//    is smaller than 2^-50 to zero.
// 2. A score is one chain of fma over ascending dimensions, from 0. Of bf16, it is the sum in order of its chunks of 32
//    dimensions, a chunk being a chain of its even dimensions plus a chain of its odd ones, both from 0.
// 3. Positions are seen in tiles of 64, at multiples of 64, ascending; a tile without a key that the query sees is
//    skipped. With m the largest score so far: if the tile's is larger, sums and outputs are multiplied by
//    2^(m - m') (math_body.hpp), and m = m'. Weights are p = 2^(score - m). Their sum is kept in 16 lanes, one for
//    the keys of each remainder modulo 16; an output is one chain of fma(p, v, output) over ascending keys. Of bf16,
//    p is rounded after it was added to its lane, and a tile's sum of p * v is made as scores are, by chunks of 16
//    keys, and then added by fma(output, 2^(m - m'), sum).
// 4. Each span of 512 positions, at multiples of 512, starts from m = -infinity, sum = 0, outputs = 0, and folds its 16
//    lanes at its end. Spans are merged in ascending order into a total that starts alike: M' = max(M, m),
//    S' = fma(s, 2^(m - M'), S * 2^(M - M')), and outputs likewise. The result is outputs / S, with
//    one and the same NaN wherever it has any.
// So a long context can be divided among threads, and nothing depends on how. Chunks of bf16 are what AMX multiplies
// (amx_attention.cpp). It takes subnormals for zero, and here there are none: weights are at least 2^-49 or zero, so all
// factors are multiples of 2^-57, products and their sums of 2^-114.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nearfield {

constexpr std::int64_t kTile = 64;           // positions of a tile
constexpr std::int64_t kChunk = 32;          // dimensions of bf16 that are summed by themselves
constexpr std::int64_t kKeys = 16;           // keys likewise
constexpr std::int64_t kSpan = 512;          // positions of a span
constexpr std::int64_t kFew = 16;            // queries of a head up to which all heads of a tile come together
constexpr std::int64_t kMaxHead = 256;       // the largest head size
constexpr int kQueryStride = kMaxHead + 16;  // floats between queries in scratch: no power of two

// One layer's cache: k [pages, heads, size, page], v [pages, heads, page, size] of fp32. Of bf16, two rows lie in turn,
// as AMX wants them: k [pages, heads, size / 2, page, 2], v [pages, heads, page / 2, size, 2]; pages are even.
struct KV {
    void* k;
    void* v;
    bool bf16;
    std::int64_t pages, heads, size, page;
};

struct HeadNorm {
    const float* weight = nullptr;  // [size]; null: no norm
    float eps = 0.0f;
};

// qkv [tokens, (heads + 2 kv.heads) * size], `stride` floats between tokens, to K and V at `slots` [tokens] (page * P +
// place) of the cache, and to scaled queries q [kv.heads, tokens, heads / kv.heads, size].
struct PrepareJob {
    const float* qkv;
    std::int64_t tokens, stride, heads;
    HeadNorm q_norm, k_norm;
    const float* cos;  // [tokens, size / 2]
    const float* sin;
    float scale;
    KV kv;
    const std::int64_t* slots;
    float* q;
};

// Tokens at positions start .. start + tokens - 1 of one sequence, over the positions of one span, and the query heads
// of `heads` K and V heads from `head` on: q [heads, tokens, shared, size], `q_stride` floats between heads. `end`
// positions have K and V in `pages`.
struct SpanJob {
    KV kv;
    const float* q;
    std::int64_t q_stride;
    const std::int64_t* pages;
    std::int64_t head, heads, start, tokens, shared, window, span, end;
};

// What queries have of one span, or of all so far: outputs [queries, width], width being the head size rounded up to
// 16; largest score and sum of weights [queries].
struct Result {
    float* outputs;
    float* largest;
    float* sums;
};

static inline std::int64_t width_of(const KV& kv) { return (kv.size + 15) / 16 * 16; }

static inline std::int64_t result_floats(const KV& kv, std::int64_t queries) {
    return (queries * (width_of(kv) + 2) + 15) / 16 * 16;
}

static inline Result result_at(float* data, const KV& kv, std::int64_t queries) {
    float* largest = data + queries * width_of(kv);
    return {data, largest, largest + queries};
}

// Floats of scratch that `span` takes for `queries` of all its heads: theirs and of 32 more, and one tile of K and V.
static inline std::int64_t span_floats(const KV& kv, std::int64_t queries) {
    const std::int64_t size = (kv.size + kChunk - 1) / kChunk * kChunk;
    return (queries + 32) * (width_of(kv) + kQueryStride + 2 * kTile) + kTile * 2 * size;
}

struct AttentionKernels {
    // Tokens [first, last).
    void (*prepare)(const PrepareJob&, std::int64_t first, std::int64_t last);
    // results: `heads` times the floats of a Result.
    void (*span)(const SpanJob&, float* results, float* scratch);
    // total = total and part; a total that nothing was merged into is made by `clear`.
    void (*clear)(const Result& total, std::int64_t queries, std::int64_t width);
    void (*merge)(const Result& total, const Result& part, std::int64_t queries, std::int64_t width);
    // out [size] of each query of one token, side by side.
    void (*finish)(const Result& total, std::int64_t queries, std::int64_t size, float* out);
};

extern const AttentionKernels amx_attention, avx512_attention, avx2_attention, scalar_attention;

}  // namespace nearfield
