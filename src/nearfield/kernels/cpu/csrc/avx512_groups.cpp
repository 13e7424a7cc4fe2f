// Weights in groups of columns with scales of their own, 4 or 8 bits, by AVX-512 VNNI. Each output has one
// float sum, to which the groups are added in ascending order by one fma each.
//
// Few tokens: two blocks of rows at a time, nibbles opened in registers (`few`). Many: the nibbles of three
// blocks are opened once for each kChunk columns into bytes that stay in the L1 cache (`many`).
#include "avx512_steps.hpp"

namespace nearfield {
namespace {

constexpr int kBlocks = 3;             // blocks of rows of a tile in `many`
constexpr std::int64_t kChunk = 256;   // columns opened at once; a multiple of every pair of groups
constexpr std::int64_t kFew = 16;      // tokens up to which `few` is quicker

// Adds one group's products of R blocks, `down` bytes apart, to the int32 sums of T tokens. What comes `ahead` bytes
// further on is asked for meanwhile.
template <int Bits, int R, int T>
inline void dots_of(const std::uint8_t* codes, std::size_t down, std::size_t ahead, std::int64_t columns,
                    const std::int8_t* panel, std::int64_t right, __m512i (&sums)[R][T]) {
    constexpr int width = T == 1 ? 1 : kPanel, bytes = Bits * kRows;
    const __m512i low = _mm512_set1_epi8(15);
    for (std::int64_t k = 0; k < columns; k += 8, panel += 8 * width, codes += bytes) {
        __m512i even[R], odd[R];
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
            const std::uint8_t* at = codes + static_cast<std::size_t>(r) * down;
            for (int line = 0; line < bytes; line += 64) __builtin_prefetch(at + ahead + line, 0, 2);
            const __m512i first = load(at);
            even[r] = Bits == 4 ? _mm512_and_si512(first, low) : first;
            odd[r] = Bits == 4 ? _mm512_and_si512(_mm512_srli_epi16(first, 4), low) : load(at + 64);
        }
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
            const std::int8_t* at = panel + (t / width) * right + (t % width) * 4;
            if constexpr (R == 1) {
                dot(sums[0][t], even[0], at);
                dot(sums[0][t], odd[0], at + 4 * width);
                continue;
            }
            const __m512i quad = repeat(at), next = repeat(at + 4 * width);
#pragma GCC unroll 2
            for (int r = 0; r < R; ++r) dot(sums[r][t], even[r], quad);
#pragma GCC unroll 2
            for (int r = 0; r < R; ++r) dot(sums[r][t], odd[r], next);
        }
    }
}

// R blocks of rows, a pair if two, by T tokens.
template <int Bits, int R, int T, Scale S, bool Z>
void few_tokens(const LinearJob& job, std::int64_t block, std::int64_t token, std::int64_t tokens) {
    constexpr int width = T == 1 ? 1 : kPanel;
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::int64_t groups = groups_of(w), right = acts.k * width;
    const std::uint8_t* data = w.data + static_cast<std::size_t>(block) * w.block_bytes;
    const std::uint8_t* codes = data;
    const std::size_t down = static_cast<std::size_t>(to_second(job)) * w.block_bytes;
    const int together = R == 1 ? 1 : across(job);
    const std::int8_t* panel = panel_codes(acts, token);
    // With 16 the integer sums need the registers; the compiler leaves what is stored in `memory` there.
    constexpr bool spilled = R * T > 12;
    alignas(64) float memory[R][spilled ? T : 1][kRows] = {};
    __m512 sums[R][T];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) sums[r][t] = _mm512_setzero_ps();
    }
    for (std::int64_t g = 0; g < groups; ++g) {
        const bool second = g % 2, alone = !second && g + 1 == groups;
        const std::size_t tail = (second || alone ? 1 : 2) * code_bytes(w) + (second ? 32 : 0);
        const std::int64_t at = token * groups + g * width;
        __m512i dots[R][T];
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
            const __m512i zeros = Z ? zeros_at(codes + r * down + tail + 64) : _mm512_setzero_si512();
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t) {
                dots[r][t] = start<Z>(zeros, acts.offsets[at + (t / width) * groups * width + t % width]);
            }
        }
        const std::size_t ahead = to_ask(w, static_cast<std::size_t>(codes - data), together);
        dots_of<Bits, R, T>(codes, down, ahead, w.group, panel, right, dots);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
            const __m512 scales = scales_at<S>(codes + r * down + tail);
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t) {
                const float scale = acts.scales[at + (t / width) * groups * width + t % width];
                if constexpr (spilled) {
                    _mm512_store_ps(memory[r][t], add_group(_mm512_load_ps(memory[r][t]), dots[r][t], scales, scale));
                } else {
                    sums[r][t] = add_group(sums[r][t], dots[r][t], scales, scale);
                }
            }
        }
        codes += code_bytes(w) + (second ? pair_bytes(w) - 2 * code_bytes(w) : 0);
        panel += w.group * width;
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
        if (t >= tokens) continue;
        __m512 ends[R];
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) ends[r] = spilled ? _mm512_load_ps(memory[r][spilled ? t : 0]) : sums[r][t];
        store_all(job, block, token + t, ends);
    }
}

template <int Bits, int R, Scale S, bool Z>
void few_blocks(const LinearJob& job, std::int64_t block, const Part& part) {
    const std::int64_t token = part.token_first, tokens = part.token_last - token;
    if (job.acts.width == 1) return few_tokens<Bits, R, 1, S, Z>(job, block, 0, 1);
    switch ((tokens + kPanel - 1) / kPanel) {
        case 1: return few_tokens<Bits, R, 4, S, Z>(job, block, token, tokens);
        case 2: return few_tokens<Bits, R, 8, S, Z>(job, block, token, tokens);
        case 3: return few_tokens<Bits, R, 12, S, Z>(job, block, token, tokens);
        default: return few_tokens<Bits, R, 16, S, Z>(job, block, token, tokens);
    }
}

template <int Bits, Scale S, bool Z>
void few(const LinearJob& job, const Part& part) {
    std::int64_t block = part.block_first;
    const bool pairs = part.token_last - part.token_first <= kPairs;
    const int step = across(job);
    for (; pairs && block + step <= part.block_last; block += step) few_blocks<Bits, 2, S, Z>(job, block, part);
    for (; block < part.block_last; ++block) few_blocks<Bits, 1, S, Z>(job, block, part);
}

// kChunk columns of some blocks, opened: codes as bytes, scales in fp32, zero points in 32 bits.
struct Chunk {
    alignas(64) std::uint8_t codes[kBlocks][kChunk * kRows];
    alignas(64) float scales[kBlocks][kChunk / 32][kRows];
    alignas(64) std::int32_t zeros[kBlocks][kChunk / 32][kRows];
};

// The float sums of some blocks by a panel of tokens.
struct alignas(64) PanelSums {
    float of[kBlocks][kPanel][kRows];
};

struct Workspace {
    Chunk chunk;
    PanelSums sums[kSlab / kPanel];
};
static_assert(sizeof(Workspace) <= kScratch, "a thread's scratch memory holds the workspace");

// Opens groups [first, last) of block `r` of the chunk.
template <int Bits, Scale S, bool Z>
void open_block(const Weights& w, const std::uint8_t* block, std::int64_t first, std::int64_t last, Chunk& chunk,
                int r) {
    const std::size_t bytes = code_bytes(w);
    for (std::int64_t g = first; g < last; ++g) {
        const bool second = g % 2, alone = !second && g + 1 == groups_of(w);
        const std::uint8_t* pair = block + static_cast<std::size_t>(g / 2) * pair_bytes(w);
        const std::uint8_t* tail = pair + (alone ? 1 : 2) * bytes + (second ? 32 : 0);
        open_codes<Bits>(pair + (second ? bytes : 0), w.group, chunk.codes[r] + (g - first) * w.group * kRows);
        _mm512_store_ps(chunk.scales[r][g - first], scales_at<S>(tail));
        if (Z) _mm512_store_si512(chunk.zeros[r][g - first], zeros_at(tail + 64));
    }
}

// R blocks by P panels of tokens, over the groups of a chunk. `at` is the first panel's first group's place.
// The float sums stay in the L1 cache, which leaves the registers to the integer ones. The next panels'
// activations and sums are asked for meanwhile.
template <int R, int P, bool Z>
inline void chunk_tile(const Acts& acts, const Chunk& chunk, const std::int8_t* panel, std::int64_t at,
                       std::int64_t groups, PanelSums* sums, Ahead& ahead) {
    constexpr int T = P * kPanel;
    const std::int64_t right = acts.k * kPanel, across = acts.k / acts.group * kPanel;
    const std::uint8_t* codes = chunk.codes[0];
    const std::int64_t lines = acts.group / kRows;
    const std::int32_t* offsets = acts.offsets + at;
    const float* act_scales = acts.scales + at;
    const float* sums_next = sums[P].of[0][0];
    for (std::int64_t g = 0; g < groups; ++g, offsets += kPanel, act_scales += kPanel) {
        __m512i dots[R][T];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const __m512i zeros = Z ? _mm512_load_si512(chunk.zeros[r][g]) : _mm512_setzero_si512();
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) {
                dots[r][t] = start<Z>(zeros, offsets[t / kPanel * across + t % kPanel]);
            }
        }
        for (std::int64_t line = 0; line < lines; ++line, sums_next += P * kRows) {
#pragma GCC unroll 2
            for (int p = 0; p < P; ++p) {
                __builtin_prefetch(panel + (P + p) * right, 0, 3);
                __builtin_prefetch(sums_next + p * kRows, 1, 3);
            }
            ahead.ask();
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q, codes += 64, panel += 4 * kPanel) {
                __m512i rows[R];
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) rows[r] = load(codes + r * kChunk * kRows);
#pragma GCC unroll 8
                for (int t = 0; t < T; ++t) {
                    const __m512i quad = repeat(panel + t / kPanel * right + t % kPanel * 4);
#pragma GCC unroll 4
                    for (int r = 0; r < R; ++r) dot(dots[r][t], rows[r], quad);
                }
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
            const float scale = act_scales[t / kPanel * across + t % kPanel];
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                float* sum = sums[t / kPanel].of[r][t % kPanel];
                const __m512 scales = _mm512_load_ps(chunk.scales[r][g]);
                _mm512_store_ps(sum, add_group(_mm512_load_ps(sum), dots[r][t], scales, scale));
            }
        }
    }
}

template <int Bits, Scale S, bool Z, int R>
void many_tokens(const LinearJob& job, std::int64_t block, const Part& part, Workspace& space) {
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::int64_t groups = groups_of(w), step = kChunk / w.group;
    Ahead ahead = next_blocks(w, block, R, part);
    const std::int64_t panels = (part.token_last - part.token_first + kPanel - 1) / kPanel;
    __builtin_memset(space.sums, 0, sizeof(PanelSums) * static_cast<std::size_t>(panels));
    for (std::int64_t first = 0; first < groups; first += step) {
        const std::int64_t last = first + step < groups ? first + step : groups;
        for (int r = 0; r < R; ++r) {
            const std::uint8_t* from = w.data + static_cast<std::size_t>(block + r) * w.block_bytes;
            open_block<Bits, S, Z>(w, from, first, last, space.chunk, r);
        }
        for (std::int64_t p = 0; p < panels; p += 2) {
            const std::int64_t token = part.token_first + p * kPanel, at = token * groups + first * kPanel;
            const std::int8_t* panel = panel_codes(acts, token) + first * w.group * kPanel;
            if (last == groups) expect_rows(job, block * kRows, token, R);
            if (p + 1 < panels) {
                chunk_tile<R, 2, Z>(acts, space.chunk, panel, at, last - first, space.sums + p, ahead);
            } else {
                chunk_tile<R, 1, Z>(acts, space.chunk, panel, at, last - first, space.sums + p, ahead);
            }
        }
    }
    for (std::int64_t token = part.token_first; token < part.token_last; ++token) {
        const std::int64_t place = token - part.token_first;
        for (int r = 0; r < R; ++r) {
            const __m512 sums = _mm512_load_ps(space.sums[place / kPanel].of[r][place % kPanel]);
            store(job, (block + r) * kRows, token, sums);
        }
    }
}

template <int Bits, Scale S, bool Z>
void linear(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    if (part.token_last - part.token_first <= kFew) return few<Bits, S, Z>(job, part);
    Workspace& space = *reinterpret_cast<Workspace*>(scratch);
    std::int64_t block = part.block_first;
    for (; block + kBlocks <= part.block_last; block += kBlocks) {
        many_tokens<Bits, S, Z, kBlocks>(job, block, part, space);
    }
    for (; block < part.block_last; ++block) many_tokens<Bits, S, Z, 1>(job, block, part, space);
}

}  // namespace

void avx512_linear_groups(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    using Linear = void (*)(const LinearJob&, const Part&, std::uint8_t*);
    static const Linear variants[2][2][2] = {
        {{linear<4, Scale::f16, false>, linear<4, Scale::f16, true>},
         {linear<4, Scale::bf16, false>, linear<4, Scale::bf16, true>}},
        {{linear<8, Scale::f16, false>, nullptr}, {linear<8, Scale::bf16, false>, nullptr}},
    };
    const Weights& w = job.weights;
    variants[w.codes == Codes::int8][w.scale == Scale::bf16][w.zeros](job, part, scratch);
}

}  // namespace nearfield
