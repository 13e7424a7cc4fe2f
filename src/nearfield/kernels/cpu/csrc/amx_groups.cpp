// Weights in groups of columns with scales of their own, 4 or 8 bits, on AMX. Codes are opened to signed bytes less
// their zero points, so that the tiles' sums are whole; each group ends in a float step for every output. That step is
// done for some tokens while the tiles multiply the next: it takes as long as the products.
#include "amx.hpp"
#include "avx512_steps.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kChunk = 128;  // columns opened at once; a multiple of every group. More sums leave the L1 cache
constexpr std::int64_t kNear = 64;    // tokens whose float sums stay there as well
constexpr std::int64_t kMost = kChunk / kTileColumns;  // groups of a chunk at most

using Scales = float[kMost][2][kRows];  // by group, then block

struct Workspace {
    alignas(64) std::uint8_t codes[2][kChunk * kRows];
    alignas(64) Scales scales[2];  // of the chunk that is multiplied, and of the one whose sums end meanwhile
    Dots dots[2][kMost];
    alignas(64) float sums[kNear][2][kRows];
};
static_assert(sizeof(Workspace) <= kScratch, "a thread's scratch memory holds the workspace");

// Codes to signed bytes. What comes `ahead` bytes further on is asked for meanwhile.
template <int Bits>
inline void open_signed(const std::uint8_t* from, std::size_t ahead, std::int64_t columns, __m512i zeros, std::uint8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    for (std::int64_t k = 0; k < columns; k += 8, to += 128) {
        __m512i even, odd;
        if (Bits == 4) {
            const __m512i both = load(from);
            __builtin_prefetch(from + ahead, 0, 2);
            even = _mm512_and_si512(both, low);
            odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            from += 64;
        } else {
            even = load(from);
            odd = load(from + 64);
            __builtin_prefetch(from + ahead, 0, 2);
            __builtin_prefetch(from + ahead + 64, 0, 2);
            from += 128;
        }
        _mm512_store_si512(to, _mm512_sub_epi8(even, zeros));
        _mm512_store_si512(to + 64, _mm512_sub_epi8(odd, zeros));
    }
}

// Scales of group g of a block, and its codes as signed bytes. `together`: blocks that come by turns.
void open_group(const Weights& w, const std::uint8_t* block, int together, std::int64_t g, std::uint8_t* codes, float* scales) {
    const std::size_t bytes = code_bytes(w);
    const bool second = g % 2, alone = !second && g + 1 == groups_of(w);
    const std::uint8_t* pair = block + static_cast<std::size_t>(g / 2) * pair_bytes(w);
    const std::uint8_t* tail = pair + (alone ? 1 : 2) * bytes + (second ? 32 : 0);
    const std::uint8_t* from = pair + (second ? bytes : 0);
    const std::size_t ahead = to_ask(w, static_cast<std::size_t>(from - block), together);
    if (w.codes == Codes::int8) {
        open_signed<8>(from, ahead, w.group, _mm512_set1_epi8(-128), codes);
    } else if (w.zeros) {
        open_signed<4>(from, ahead, w.group, _mm512_mullo_epi32(zeros_at(tail + 64), _mm512_set1_epi32(0x01010101)), codes);
    } else {
        open_signed<4>(from, ahead, w.group, _mm512_set1_epi8(8), codes);
    }
    _mm512_store_ps(scales, w.scale == Scale::f16 ? scales_at<Scale::f16>(tail) : scales_at<Scale::bf16>(tail));
}

// Groups [first, last) of all: what a chunk has.
struct Span {
    std::int64_t first, last, all;
};

// The groups' sums of a pair by some tokens, on their way to the float sums, and at last to y.
class Ending {
public:
    Ending(const LinearJob& job, const Pair& pair, float (*sums)[2][kRows]) : job_(job), pair_(pair), sums_(sums) {}

    // Of tokens [token, last), whose float sums begin at `place`.
    void take(const Dots* dots, const Scales& scales, const Span& span, std::int64_t token, std::int64_t last,
              std::int64_t place) {
        dots_ = dots;
        scales_ = &scales;
        span_ = span;
        token_ = token;
        last_ = last;
        place_ = place;
        tile_ = 0;
    }

    // One tile of tokens.
    void tile() {
        if (token_ >= last_) return;
        const std::int64_t count = last_ - token_ < kTileTokens ? last_ - token_ : kTileTokens;
        span_.last - span_.first == 2 ? add<2>(count) : add<1>(count);
        if (span_.last == span_.all) end(count);
        token_ += count;
        place_ += count;
        tile_ += 1;
    }

    void rest() {
        while (token_ < last_) tile();
    }

private:
    template <int G>
    void add(std::int64_t count) {
        const float* acts = job_.acts.scales + token_ * span_.all + span_.first;
        const std::int32_t* dots = dots_->of[tile_][0][0];
        constexpr std::int64_t group = sizeof(Dots) / sizeof(std::int32_t), block = kTileTokens * kRows;
        float* sums = sums_[place_][0];
        __m512 scales[G][2];
#pragma GCC unroll 2
        for (int g = 0; g < G; ++g) {
            scales[g][0] = _mm512_load_ps((*scales_)[g][0]);
            scales[g][1] = _mm512_load_ps((*scales_)[g][1]);
        }
        const __mmask16 kept = span_.first ? 0xffff : 0;
        for (std::int64_t t = 0; t < count; ++t, acts += span_.all, dots += kRows, sums += 2 * kRows) {
            __m512 first = _mm512_maskz_load_ps(kept, sums), second = _mm512_maskz_load_ps(kept, sums + kRows);
#pragma GCC unroll 2
            for (int g = 0; g < G; ++g) {
                first = add_group(first, _mm512_load_si512(dots + g * group), scales[g][0], acts[g]);
                second = add_group(second, _mm512_load_si512(dots + g * group + block), scales[g][1], acts[g]);
            }
            _mm512_store_ps(sums, first);
            _mm512_store_ps(sums + kRows, second);
        }
    }

    void end(std::int64_t count) {
        for (std::int64_t t = 0; t < count; ++t) {
            const __m512 first = _mm512_load_ps(sums_[place_ + t][0]), second = _mm512_load_ps(sums_[place_ + t][1]);
            if (job_.gated) {
                store_gated(job_, pair_.row, token_ + t, first, second);
                continue;
            }
            nearfield::store(job_, pair_.row, token_ + t, first);
            if (pair_.blocks == 2) nearfield::store(job_, pair_.second, token_ + t, second);
        }
    }

    const LinearJob& job_;
    const Pair& pair_;
    float (*sums_)[2][kRows];
    const Dots* dots_ = nullptr;
    const Scales* scales_ = nullptr;
    Span span_{};
    std::int64_t token_ = 0, last_ = 0, place_ = 0;
    int tile_ = 0;
};

// The products of a chunk's groups by T tiles of tokens, and meanwhile the ending of others.
template <int T>
void multiply_groups(const Factors& factors, std::int64_t group, std::int64_t count, Dots* dots, Ending& ending) {
    for (std::int64_t at = 0; at < count; ++at) {
        begin<T>(nullptr);
        for (std::int64_t column = at * group; column < (at + 1) * group; column += kTileColumns) {
            multiply<T, true>(factors.at(column));
            ending.tile();
        }
        leave<T>(dots[at]);
    }
}

// Tokens [first, last), at most kNear.
void pair_of(const LinearJob& job, const Pair& pair, std::int64_t first, std::int64_t last, Workspace& space) {
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::int64_t all = groups_of(w), together = kChunk / w.group;
    Ending ending(job, pair, space.sums);
    int turn = 0, side = 0;
    for (std::int64_t group = 0; group < all; group += together, side ^= 1) {
        const Span span{group, group + together < all ? group + together : all, all};
        for (int r = 0; r < 2; ++r) {
            for (std::int64_t g = span.first; g < span.last; ++g) {
                const std::int64_t at = g - span.first;
                open_group(w, pair.data[r], across(job), g, space.codes[r] + at * w.group * kRows, space.scales[side][at][r]);
            }
        }
        for (std::int64_t token = first; token < last; token += kTokens, turn ^= 1) {
            const std::int64_t left = last - token;
            const Factors factors{acts.codes + token * acts.k + group * w.group, acts.k, {space.codes[0], space.codes[1]}};
            if (left > kTileTokens) {
                multiply_groups<2>(factors, w.group, span.last - span.first, space.dots[turn], ending);
            } else {
                multiply_groups<1>(factors, w.group, span.last - span.first, space.dots[turn], ending);
            }
            ending.rest();
            ending.take(space.dots[turn], space.scales[side], span, token, token + (left < kTokens ? left : kTokens),
                        token - first);
        }
    }
    ending.rest();
}

}  // namespace

void amx_linear_groups(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    Workspace& space = *reinterpret_cast<Workspace*>(scratch);
    for (std::int64_t block = part.block_first; block < part.block_last; block += across(job)) {
        const Pair pair = pair_at(job, block, part.block_last);
        for (std::int64_t token = part.token_first; token < part.token_last; token += kNear) {
            pair_of(job, pair, token, token + kNear < part.token_last ? token + kNear : part.token_last, space);
        }
    }
}

}  // namespace nearfield
