// Int8 weights with one scale a row on AMX: int32 sums over all columns, one float step at the end. That step is done
// for one step of tokens while the tiles multiply the next: they leave the other units idle.
#include "vec_avx512.hpp"

#include "amx.hpp"
#include "avx512_steps.hpp"
#include "math_body.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kAheadOf = 8 << 10;  // bytes of each block that are asked for ahead, where tokens are few
constexpr std::int64_t kChunk = 1024;       // columns of two blocks, about, that stay in the L1 cache while tokens go by

struct Workspace {
    Dots dots[kTiledSlab / kTokens];
};
static_assert(sizeof(Workspace) <= kScratch, "a thread's scratch memory holds the workspace");

// Two blocks of rows, `row` and `second` the first of each; without a second one, the first stands in.
struct Pair {
    const std::uint8_t* data[2];
    std::int64_t row, second;
    int blocks;
};

inline __m512 scaled(const LinearJob& job, const std::uint8_t* block, std::int64_t row, std::int64_t token, __m512i sum) {
    const __m512 scales = _mm512_load_ps(block + job.weights.block_bytes - 64);
    const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(job.acts.scales[token]));
    const __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, _mm512_setzero_ps());
    return job.bias ? _mm512_add_ps(y, _mm512_loadu_ps(job.bias + row)) : y;
}

// The sums of a pair by some tokens, on their way to y.
class Ending {
public:
    Ending(const LinearJob& job, const Pair& pair) : job_(job), pair_(pair) {}

    void take(const Dots& dots, std::int64_t token, std::int64_t last) {
        dots_ = &dots;
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
        const auto& sums = dots_->of[t / kTileTokens];
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
    const Pair& pair_;
    const Dots* dots_ = nullptr;
    std::int64_t first_ = 0, token_ = 0, last_ = 0;
};

// `lines` lines of what the next pair has for 64 columns, from the one of number `from` on.
inline void ask(const std::uint8_t* tile, std::int64_t from, std::int64_t lines) {
    for (std::int64_t line = from; line < from + lines && line < kTileLines; ++line) {
        __builtin_prefetch(tile + line * 64, 0, 2);
    }
}

// Columns [first, last) of a pair by T tiles of tokens, added to the sums before. Meanwhile: the ending of other
// tokens, and the share of this step of `steps` in asking for the next pair, `next` bytes further on.
template <int T>
void multiply_chunk(const Factors& factors, std::int64_t first, std::int64_t last, Dots& dots, std::int64_t next,
                    std::int64_t step, std::int64_t steps, Ending& ending) {
    const std::int64_t count = (last - first) / kTileColumns, tokens = (kTokens + count - 1) / count;
    const std::int64_t lines = (kTileLines + steps - 1) / steps;
    begin<T>(first ? &dots : nullptr);
    for (std::int64_t column = first; column < last; column += kTileColumns) {
        const Factors here = factors.at(column);
        multiply<T, false>(here);
        ask(here.blocks[0] + next, step * lines, lines);
        ask(here.blocks[1] + next, step * lines, lines);
        ending.some(tokens);
    }
    leave<T>(dots);
}

void many(const LinearJob& job, const Pair& pair, std::int64_t next, const Part& part, Workspace& space) {
    const Acts& acts = job.acts;
    const std::int64_t k = job.weights.k, lines = k / kTileColumns, chunks = (k + kChunk - 1) / kChunk;
    const std::int64_t steps = (part.token_last - part.token_first + kTokens - 1) / kTokens;
    Ending ending(job, pair);
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const std::int64_t first = lines * chunk / chunks * kTileColumns, last = lines * (chunk + 1) / chunks * kTileColumns;
        for (std::int64_t step = 0; step < steps; ++step) {
            const std::int64_t token = part.token_first + step * kTokens, left = part.token_last - token;
            const Factors factors{acts.codes + token * k, k, {pair.data[0], pair.data[1]}};
            if (left > kTileTokens) {
                multiply_chunk<2>(factors, first, last, space.dots[step], next, step, steps, ending);
            } else {
                multiply_chunk<1>(factors, first, last, space.dots[step], next, step, steps, ending);
            }
            ending.rest();
            if (last == k) ending.take(space.dots[step], token, token + (left < kTokens ? left : kTokens));
        }
    }
    ending.rest();
}

// Up to 16 tokens: memory decides. Weights are asked for well ahead.
void few(const LinearJob& job, const Pair& pair, const Part& part, Dots& dots) {
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
    Ending ending(job, pair);
    ending.take(dots, part.token_first, part.token_last);
    ending.rest();
}

}  // namespace

void amx_linear_rows(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    const Weights& w = job.weights;
    Workspace& space = *reinterpret_cast<Workspace*>(scratch);
    const std::int64_t apart = job.gated ? blocks_of(w) / 2 : 1, across = job.gated ? 1 : 2;
    const auto data = [&](std::int64_t block) { return w.data + static_cast<std::size_t>(block) * w.block_bytes; };
    for (std::int64_t block = part.block_first; block < part.block_last; block += across) {
        const int blocks = job.gated || part.block_last - block >= 2 ? 2 : 1;
        const std::int64_t second = blocks == 2 ? block + apart : block;
        const Pair pair{{data(block), data(second)}, block * kRows, second * kRows, blocks};
        if (part.token_last - part.token_first <= kTileTokens) {
            few(job, pair, part, space.dots[0]);
        } else {
            many(job, pair, across * static_cast<std::int64_t>(w.block_bytes), part, space);
        }
    }
}

}  // namespace nearfield
