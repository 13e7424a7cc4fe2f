// Linear operations by many tokens on AMX: tiles of 16 tokens by 64 columns times 64 columns by 16 rows, exact
// int32 sums, hence the bits of every other instruction set. A block's codes of 64 columns are such a tile as
// they lie (job.hpp); activations lie in plain rows (Acts of width 1). Everything else is AVX-512's.
#include "amx.hpp"
#include "avx512_steps.hpp"
#include "kernels.hpp"

namespace nearfield {
namespace {

constexpr int kTokens = 2 * kTileTokens;  // of a step: two tiles of activations by two blocks of rows
constexpr std::int64_t kAheadOf = 8 << 10;  // bytes of each block that are asked for ahead, where tokens are few
constexpr std::int64_t kChunk = 256;      // columns of 4-bit codes opened at once; a multiple of every group

using Dots = std::int32_t[2][kTileTokens][kRows];  // of two blocks by a tile of tokens

struct Workspace {
    alignas(64) std::uint8_t codes[2][kChunk * kRows];
    alignas(64) float scales[2][kChunk / 64][kRows];
    alignas(64) std::int32_t zeros[2][kChunk / 64][kRows];
    alignas(64) Dots dots[kChunk / 64];
    alignas(64) float sums[2][kSlab][kRows];
};
static_assert(sizeof(Workspace) <= kScratch, "a thread's scratch memory holds the workspace");

// Products of `columns` columns of two blocks by two tiles of tokens. Tiles 0 .. 3 hold the sums, 4 and 5
// activations, 6 and 7 weights.
inline void multiply(const std::int8_t* acts, std::int64_t stride, const std::uint8_t* first, const std::uint8_t* second,
                     std::int64_t columns, Dots& upper, Dots& lower) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (std::int64_t k = 0; k < columns; k += kTileColumns) {
        _tile_loadd(4, acts + k, stride);
        _tile_loadd(6, first + k * kRows, 64);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, second + k * kRows, 64);
        _tile_dpbsud(1, 4, 7);
        _tile_loadd(5, acts + kTileTokens * stride + k, stride);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, upper[0], 64);
    _tile_stored(1, upper[1], 64);
    _tile_stored(2, lower[0], 64);
    _tile_stored(3, lower[1], 64);
}

// The same of one tile of tokens. Weights are asked for `ahead` bytes before they are needed; 0: they are near.
inline void multiply(const std::int8_t* acts, std::int64_t stride, const std::uint8_t* first, const std::uint8_t* second,
                     std::int64_t columns, Dots& dots, std::int64_t ahead) {
    _tile_zero(0);
    _tile_zero(1);
    for (std::int64_t k = 0; k < columns; k += kTileColumns) {
        for (std::int64_t line = 0; ahead && line < kTileColumns * kRows; line += 64) {
            __builtin_prefetch(first + k * kRows + ahead + line, 0, 2);
            __builtin_prefetch(second + k * kRows + ahead + line, 0, 2);
        }
        _tile_loadd(4, acts + k, stride);
        _tile_loadd(6, first + k * kRows, 64);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, second + k * kRows, 64);
        _tile_dpbsud(1, 4, 7);
    }
    _tile_stored(0, dots[0], 64);
    _tile_stored(1, dots[1], 64);
}

// One scale a row: the sums over all columns at once.
void rows(const LinearJob& job, std::int64_t block, int blocks, const Part& part, Workspace& space) {
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::uint8_t* data = w.data + static_cast<std::size_t>(block) * w.block_bytes;
    const std::size_t down = blocks == 2 ? w.block_bytes : 0;
    for (std::int64_t token = part.token_first; token < part.token_last; token += kTokens) {
        if (part.token_last - token > kTileTokens) {
            multiply(acts.codes + token * acts.k, acts.k, data, data + down, w.k, space.dots[0], space.dots[1]);
        } else {
            multiply(acts.codes + token * acts.k, acts.k, data, data + down, w.k, space.dots[0], kAheadOf);
        }
        for (int t = 0; t < kTokens && token + t < part.token_last; ++t) {
            const __m512i offset = _mm512_set1_epi32(acts.offsets[token + t]);
            for (int r = 0; r < blocks; ++r) {
                const __m512i sum = _mm512_add_epi32(_mm512_load_si512(space.dots[t / kTileTokens][r][t % kTileTokens]), offset);
                finish(job, data + r * down, (block + r) * kRows, token + t, sum, acts.scales[token + t]);
            }
        }
    }
}

// Scales and zero points of group g of a block, and its codes as bytes, to place `at` of the workspace.
template <bool Z>
void open_group(const Weights& w, const std::uint8_t* block, std::int64_t g, std::int64_t at, int r, Workspace& space) {
    const std::size_t bytes = code_bytes(w);
    const bool second = g % 2, alone = !second && g + 1 == groups_of(w);
    const std::uint8_t* pair = block + static_cast<std::size_t>(g / 2) * pair_bytes(w);
    const std::uint8_t* tail = pair + (alone ? 1 : 2) * bytes + (second ? 32 : 0);
    std::uint8_t* codes = space.codes[r] + at * w.group * kRows;
    if (w.codes == Codes::int4) {
        open_codes<4>(pair + (second ? bytes : 0), w.group, codes);
    } else {
        open_codes<8>(pair + (second ? bytes : 0), w.group, codes);
    }
    _mm512_store_ps(space.scales[r][at], w.scale == Scale::f16 ? scales_at<Scale::f16>(tail) : scales_at<Scale::bf16>(tail));
    if (Z) _mm512_store_si512(space.zeros[r][at], zeros_at(tail + 64));
}

// Adds the shares of `count` groups from `g` on to the float sums of 4 tokens of a tile, at `t`.
template <bool Z>
inline void add_groups(const Acts& acts, std::int64_t token, int t, std::int64_t g, std::int64_t count, int r, Workspace& space,
                       float (*sums)[kRows]) {
    constexpr int T = 4;
    const std::int64_t groups = acts.k / acts.group;
    const float* act_scales = acts.scales + token * groups + g;
    const std::int32_t* offsets = acts.offsets + token * groups + g;
    __m512 sum[T];
#pragma GCC unroll 4
    for (int i = 0; i < T; ++i) sum[i] = _mm512_load_ps(sums[i]);
    for (std::int64_t at = 0; at < count; ++at) {
        const __m512 scales = _mm512_load_ps(space.scales[r][at]);
        const __m512i zeros = Z ? _mm512_load_si512(space.zeros[r][at]) : _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int i = 0; i < T; ++i) {
            const __m512i begin = start<Z>(zeros, offsets[i * groups + at]);
            const __m512i dots = _mm512_add_epi32(_mm512_load_si512(space.dots[at][r][t + i]), begin);
            sum[i] = nearfield::add_group(sum[i], dots, scales, act_scales[i * groups + at]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < T; ++i) _mm512_store_ps(sums[i], sum[i]);
}

template <bool Z>
void groups(const LinearJob& job, std::int64_t block, int blocks, const Part& part, Workspace& space) {
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::int64_t count = groups_of(w), step = kChunk / w.group, tokens = part.token_last - part.token_first;
    __builtin_memset(space.sums, 0, sizeof space.sums);
    for (std::int64_t first = 0; first < count; first += step) {
        const std::int64_t last = first + step < count ? first + step : count;
        for (int r = 0; r < blocks; ++r) {
            const std::uint8_t* data = w.data + static_cast<std::size_t>(block + r) * w.block_bytes;
            for (std::int64_t g = first; g < last; ++g) open_group<Z>(w, data, g, g - first, r, space);
        }
        for (std::int64_t place = 0; place < tokens; place += kTileTokens) {
            const std::int64_t token = part.token_first + place;
            for (std::int64_t at = 0; at < last - first; ++at) {
                const std::size_t codes = static_cast<std::size_t>(at * w.group * kRows);
                multiply(acts.codes + token * acts.k + (first + at) * w.group, acts.k, space.codes[0] + codes,
                         space.codes[1] + codes, w.group, space.dots[at], 0);
            }
            for (int r = 0; r < blocks; ++r) {
                for (int t = 0; t < kTileTokens && place + t < tokens; t += 4) {
                    add_groups<Z>(acts, token + t, t, first, last - first, r, space, space.sums[r] + place + t);
                }
            }
        }
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
        for (int r = 0; r < blocks; ++r) {
            store(job, (block + r) * kRows, part.token_first + t, _mm512_load_ps(space.sums[r][t]));
        }
    }
}

}  // namespace

void amx_linear(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    const Weights& w = job.weights;
    if (job.acts.width != 1 || job.acts.m == 1) return avx512_kernels().linear(job, part, scratch);
    Workspace& space = *reinterpret_cast<Workspace*>(scratch);
    configure(kTileTokens);
    for (std::int64_t block = part.block_first; block < part.block_last; block += 2) {
        const int blocks = part.block_last - block < 2 ? 1 : 2;
        if (scaled_by_row(w)) {
            rows(job, block, blocks, part, space);
        } else if (w.zeros) {
            groups<true>(job, block, blocks, part, space);
        } else {
            groups<false>(job, block, blocks, part, space);
        }
    }
    _tile_release();
}

// Four tiles of sums hide the latency.
double amx_mac_int8(std::int64_t rounds) {
    configure(kTileTokens);
    for (std::int64_t i = 0; i < rounds; ++i) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_release();
    return static_cast<double>(rounds) * 4 * kTileTokens * kRows * kTileColumns;
}

}  // namespace nearfield
