// Int8 weights with one scale a row on AMX: int32 sums over all columns, one float step at the end. That step, and the
// gate, are done for some tokens while the tiles multiply others: they leave most other units idle.
#include "vec_avx512.hpp"

#include "amx.hpp"
#include "avx512_steps.hpp"
#include "math_body.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kAheadOf = 8 << 10;  // bytes of each block that are asked for ahead, where tokens are few
constexpr std::int64_t kChunk = 512;        // columns of two blocks at most that stay in the L1 cache while tokens go by
constexpr std::int64_t kNear = 64;          // those tokens, whose sums stay there as well

struct Workspace {
    Dots dots[2][kNear / kTokens];  // of tokens that are multiplied, and of those whose sums end meanwhile
};
static_assert(sizeof(Workspace) <= kScratch, "a thread's scratch memory holds the workspace");

inline __m512 scaled(const LinearJob& job, const std::uint8_t* block, std::int64_t row, std::int64_t token, __m512i sum) {
    const __m512 scales = _mm512_load_ps(block + job.weights.block_bytes - 64);
    const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(job.acts.scales[token]));
    const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, _mm512_setzero_ps());
    return job.bias ? _mm512_add_ps(y, _mm512_loadu_ps(job.bias + row)) : y;
}

// The sums of a pair by some tokens, on their way to y.
class Ending {
public:
    explicit Ending(const LinearJob& job) : job_(job) {}

    void take(const Pair& pair, const Dots* dots, std::int64_t token, std::int64_t last) {
        pair_ = pair;
        dots_ = dots;
        first_ = token_ = token;
        last_ = last;
    }

    void some(std::int64_t tokens) {
        for (; tokens > 0 && token_ < last_; --tokens, ++token_) one();
    }

    void rest() { some(last_ - token_); }

private:
    void one() {
        const std::int64_t t = token_ - first_;
        const auto& sums = dots_[t / kTokens].of[t % kTokens / kTileTokens];
        const __m512i offset = _mm512_set1_epi32(job_.acts.offsets[token_]);
        const __m512i first = _mm512_add_epi32(_mm512_load_si512(sums[0][t % kTileTokens]), offset);
        const __m512i second = _mm512_add_epi32(_mm512_load_si512(sums[1][t % kTileTokens]), offset);
        if (job_.gated) {
            const Vec gate{scaled(job_, pair_.data[0], pair_.row, token_, first)};
            const Vec up{scaled(job_, pair_.data[1], pair_.second, token_, second)};
            return store(job_.y + token_ * job_.y_stride + pair_.row, silu(gate) * up);
        }
        finish(job_, pair_.data[0], pair_.row, token_, first, job_.acts.scales[token_]);
        if (pair_.blocks == 2) finish(job_, pair_.data[1], pair_.second, token_, second, job_.acts.scales[token_]);
    }

    const LinearJob& job_;
    Pair pair_{};
    const Dots* dots_ = nullptr;
    std::int64_t first_ = 0, token_ = 0, last_ = 0;
};

// `lines` lines of what the next pair has for 64 columns, from the one of number `from` on.
inline void ask(const std::uint8_t* tile, std::int64_t from, std::int64_t lines) {
    for (std::int64_t line = from; line < from + lines && line < kTileLines; ++line) {
        __builtin_prefetch(tile + line * 64, 0, 2);
    }
}

// What goes on while a pair is multiplied by up to kNear tokens, in even shares: the sums of other tokens end, and the
// next pair is asked for, `next` bytes further on.
struct Meanwhile {
    Ending& ending;
    std::int64_t next, steps, tokens;
};

// Columns [first, last) of a pair by T tiles of tokens, added to the sums before. `step` of the tokens' steps.
template <int T>
void multiply_chunk(const Factors& factors, std::int64_t first, std::int64_t last, Dots& dots, std::int64_t step,
                    const Meanwhile& meanwhile) {
    const std::int64_t lines = (kTileLines + meanwhile.steps - 1) / meanwhile.steps;
    begin<T>(first ? &dots : nullptr);
    for (std::int64_t column = first; column < last; column += kTileColumns) {
        const Factors here = factors.at(column);
        multiply<T, false>(here);
        ask(here.blocks[0] + meanwhile.next, step * lines, lines);
        ask(here.blocks[1] + meanwhile.next, step * lines, lines);
        meanwhile.ending.some(meanwhile.tokens);
    }
    leave<T>(dots);
}

// Tokens [from, to) of the part, at most kNear.
void many(const LinearJob& job, const Pair& pair, const Part& part, std::int64_t from, std::int64_t to, Dots* dots,
          const Meanwhile& meanwhile) {
    const std::int64_t k = job.weights.k, lines = k / kTileColumns, chunks = (k + kChunk - 1) / kChunk;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const std::int64_t first = lines * chunk / chunks * kTileColumns, last = lines * (chunk + 1) / chunks * kTileColumns;
        for (std::int64_t token = from; token < to; token += kTokens) {
            const std::int64_t step = (token - part.token_first) / kTokens;
            const Factors factors{job.acts.codes + token * k, k, {pair.data[0], pair.data[1]}};
            Dots& sums = dots[(token - from) / kTokens];
            if (to - token > kTileTokens) {
                multiply_chunk<2>(factors, first, last, sums, step, meanwhile);
            } else {
                multiply_chunk<1>(factors, first, last, sums, step, meanwhile);
            }
        }
    }
    meanwhile.ending.rest();
    meanwhile.ending.take(pair, dots, from, to);
}

// Up to 16 tokens: memory decides. Weights are asked for well ahead.
void few(const LinearJob& job, const Pair& pair, const Part& part, Dots& dots, Ending& ending) {
    const std::int64_t k = job.weights.k;
    const Factors factors{job.acts.codes + part.token_first * k, k, {pair.data[0], pair.data[1]}};
    begin<1>(nullptr);
    for (std::int64_t column = 0; column < k; column += kTileColumns) {
        const Factors here = factors.at(column);
        ask(here.blocks[0] + kAheadOf, 0, kTileLines);
        ask(here.blocks[1] + kAheadOf, 0, kTileLines);
        multiply<1, false>(here);
    }
    leave<1>(dots);
    ending.take(pair, &dots, part.token_first, part.token_last);
    ending.rest();
}

}  // namespace

void amx_linear_rows(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    const Weights& w = job.weights;
    Workspace& space = *reinterpret_cast<Workspace*>(scratch);
    const std::int64_t tokens = part.token_last - part.token_first, lines = w.k / kTileColumns;
    Ending ending(job);
    const Meanwhile meanwhile{ending, across(job) * static_cast<std::int64_t>(w.block_bytes),
                              (tokens + kTokens - 1) / kTokens, (kTokens + lines - 1) / lines};
    int turn = 0;
    for (std::int64_t block = part.block_first; block < part.block_last; block += across(job)) {
        const Pair pair = pair_at(job, block, part.block_last);
        if (tokens <= kTileTokens) {
            few(job, pair, part, space.dots[0][0], ending);
            continue;
        }
        for (std::int64_t token = part.token_first; token < part.token_last; token += kNear, turn ^= 1) {
            const std::int64_t last = token + kNear < part.token_last ? token + kNear : part.token_last;
            many(job, pair, part, token, last, space.dots[turn], meanwhile);
        }
    }
    ending.rest();
}

}  // namespace nearfield
