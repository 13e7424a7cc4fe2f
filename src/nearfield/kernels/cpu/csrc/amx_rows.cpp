// Int8 weights with one scale a row on AMX: int32 sums over all columns, one float step at the end. That step, and the
// gate, are done for some tokens while the tiles multiply others: they leave most other units idle.
#include "amx.hpp"
#include "avx512_steps.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kChunk = 1024;       // columns of two blocks at most, which stay in the L1 cache while tokens go by

struct Workspace {
    Dots dots[kTiledSlab / kTokens];
};
static_assert(sizeof(Workspace) <= kScratch, "a thread's scratch memory holds the workspace");

// The sums of a pair by some tokens, on their way to y.
class Ending {
public:
    explicit Ending(const LinearJob& job) : job_(job) {}

    void take(const Pair& pair, const Dots* dots, std::int64_t token, std::int64_t last) {
        pair_ = pair;
        dots_ = dots->of[0][0][0];
        first_ = token_ = token;
        last_ = last;
    }

    // All that the loop needs is read before it: the compiler takes a store of floats to change anything.
    void some(std::int64_t tokens) {
        const std::int64_t from = token_, to = last_ - from < tokens ? last_ : from + tokens;
        if (from >= to) return;
        token_ = to;
        const LinearJob job = job_;
        const std::int64_t row = pair_.row, second = pair_.second;
        const __mmask16 kept = rows_from(job, row), kept_too = pair_.blocks == 2 ? rows_from(job, second) : __mmask16{0};
        const __m512 scales = scales_of(pair_.data[0]), scales_too = scales_of(pair_.data[1]);
        const __m512 bias = bias_from(row, kept), bias_too = bias_from(second, kept_too);
        const std::int32_t* dots = dots_;
        const std::int64_t first = first_;
        for (std::int64_t token = from; token < to; ++token) {
            const std::int64_t t = token - first;
            const std::int32_t* sums = dots + t / kTileTokens * kDotsOfTile + t % kTileTokens * kRows;
            const __m512i offset = _mm512_set1_epi32(job.acts.offsets[token]);
            const __m512 scale = _mm512_set1_ps(job.acts.scales[token]);
            __m512 x = scaled(sums, offset, scales, scale);
            __m512 too = scaled(sums + kDotsOfTile / 2, offset, scales_too, scale);
            if (job.bias) x = _mm512_add_ps(x, bias);
            if (job.bias) too = _mm512_add_ps(too, bias_too);
            float* y = job.y + token * job.y_stride;
            if (job.gated) {
                store(y + row, silu(Vec{x}) * Vec{too});
                continue;
            }
            if (job.residual) {
                const float* residual = job.residual + token * job.residual_stride;
                x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(kept, residual + row));
                too = _mm512_add_ps(too, _mm512_maskz_loadu_ps(kept_too, residual + second));
            }
            put(job, y + row, kept, x);
            put(job, y + second, kept_too, too);
        }
    }

    void rest() { some(last_ - token_); }

private:
    static constexpr std::int64_t kDotsOfTile = 2 * kTileTokens * kRows;

    __m512 scales_of(const std::uint8_t* block) const { return _mm512_load_ps(block + job_.weights.block_bytes - 64); }

    __m512 bias_from(std::int64_t row, __mmask16 kept) const {
        return job_.bias ? _mm512_maskz_loadu_ps(kept, job_.bias + row) : _mm512_setzero_ps();
    }

    static __m512 scaled(const std::int32_t* dots, __m512i offset, __m512 scales, __m512 scale) {
        const __m512i sum = _mm512_add_epi32(_mm512_load_si512(dots), offset);
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scales, scale), _mm512_setzero_ps());
    }

    const LinearJob& job_;
    Pair pair_{};
    const std::int32_t* dots_ = nullptr;
    std::int64_t first_ = 0, token_ = 0, last_ = 0;
};

// `lines` lines of what the next pair has for 64 columns, from the one of number `from` on.
inline void ask(const std::uint8_t* tile, std::int64_t from, std::int64_t lines) {
    for (std::int64_t line = from; line < from + lines && line < kTileLines; ++line) {
        __builtin_prefetch(tile + line * 64, 0, 2);
    }
}

// What goes on in each step of 64 columns, in even shares: the sums of other tokens end, and the next pair is asked for,
// `next` bytes further on, `lines` of its lines for these columns from number `line` on.
struct Meanwhile {
    Ending& ending;
    std::int64_t tokens, next, line, lines;
};

// Columns [first, last) of a pair by T tiles of tokens, added to the sums before.
template <int T>
void multiply_chunk(const Factors& factors, std::int64_t first, std::int64_t last, Dots& dots, const Meanwhile& meanwhile) {
    begin<T>(first ? &dots : nullptr);
    for (std::int64_t column = first; column < last; column += kTileColumns) {
        const Factors here = factors.at(column);
        multiply<T, false>(here);
        ask(here.blocks[0] + meanwhile.next, meanwhile.line, meanwhile.lines);
        ask(here.blocks[1] + meanwhile.next, meanwhile.line, meanwhile.lines);
        meanwhile.ending.some(meanwhile.tokens);
    }
    meanwhile.ending.rest();
    leave<T>(dots);
}

// All tokens of the part by a pair.
void many(const LinearJob& job, const Pair& pair, const Part& part, Dots* dots, Ending& ending) {
    const std::int64_t k = job.weights.k, columns = k / kTileColumns, chunks = (k + kChunk - 1) / kChunk;
    const std::int64_t steps = (part.token_last - part.token_first + kTokens - 1) / kTokens;
    const std::int64_t next = across(job) * static_cast<std::int64_t>(job.weights.block_bytes);
    const std::int64_t tokens = (kTokens + columns / chunks - 1) / (columns / chunks), lines = (kTileLines + steps - 1) / steps;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const std::int64_t first = columns * chunk / chunks * kTileColumns, last = columns * (chunk + 1) / chunks * kTileColumns;
        for (std::int64_t step = 0; step < steps; ++step) {
            const std::int64_t token = part.token_first + step * kTokens;
            const std::int64_t stop = token + kTokens < part.token_last ? token + kTokens : part.token_last;
            const Factors factors{job.acts.codes + token * k, k, {pair.data[0], pair.data[1]}};
            const Meanwhile meanwhile{ending, tokens, next, step * lines, lines};
            if (stop - token > kTileTokens) {
                multiply_chunk<2>(factors, first, last, dots[step], meanwhile);
            } else {
                multiply_chunk<1>(factors, first, last, dots[step], meanwhile);
            }
            if (chunk == chunks - 1) ending.take(pair, dots + step, token, stop);
        }
    }
}

// Up to 16 tokens: memory decides. Weights are asked for well ahead, and while the sums of the pair before end.
void few(const LinearJob& job, const Pair& pair, const Part& part, Dots& dots, Ending& ending) {
    const std::int64_t k = job.weights.k, tokens = (kTileTokens * kTileColumns + k - 1) / k;
    const Factors factors{job.acts.codes + part.token_first * k, k, {pair.data[0], pair.data[1]}};
    begin<1>(nullptr);
    for (std::int64_t column = 0; column < k; column += kTileColumns) {
        const Factors here = factors.at(column);
        const std::size_t ahead = to_ask(job.weights, static_cast<std::size_t>(column * kRows), across(job));
        ask(here.blocks[0] + ahead, 0, kTileLines);
        ask(here.blocks[1] + ahead, 0, kTileLines);
        multiply<1, false>(here);
        ending.some(tokens);
    }
    ending.rest();
    leave<1>(dots);
    ending.take(pair, &dots, part.token_first, part.token_last);
}

}  // namespace

void amx_linear_rows(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    Workspace& space = *reinterpret_cast<Workspace*>(scratch);
    const bool memory_decides = part.token_last - part.token_first <= kTileTokens;
    Ending ending(job);
    for (std::int64_t block = part.block_first; block < part.block_last; block += across(job)) {
        const Pair pair = pair_at(job, block, part.block_last);
        if (memory_decides) {
            few(job, pair, part, space.dots[0], ending);
        } else {
            many(job, pair, part, space.dots, ending);
        }
    }
    ending.rest();
}

}  // namespace nearfield
