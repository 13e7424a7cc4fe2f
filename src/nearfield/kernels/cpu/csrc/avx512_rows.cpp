// Int8 weights with one scale a row, by AVX-512 VNNI: int32 sums over all of k, one float step at the end.
#include "avx512.hpp"

namespace nearfield {
namespace {

inline void finish(const LinearJob& job, const std::uint8_t* block, std::int64_t row, std::int64_t token, __m512i sum,
                   float scale) {
    const __m512 scales = _mm512_load_ps(block + job.weights.block_bytes - 64);
    const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
    store(job, row, token, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, _mm512_setzero_ps()));
}

// One token: the weights go by once, in one stream, and four sums hide the latency.
void single(const LinearJob& job, std::int64_t first, std::int64_t last) {
    const Weights& w = job.weights;
    const std::int64_t quads = w.k / 4;  // a multiple of 8
    for (std::int64_t b = first; b < last; ++b) {
        const std::uint8_t* block = w.data + static_cast<std::size_t>(b) * w.block_bytes;
        const std::uint8_t* codes = block;
        const std::int8_t* acts = job.acts.codes;
        __m512i sum0 = _mm512_set1_epi32(job.acts.offsets[0]), sum1 = _mm512_setzero_si512();
        __m512i sum2 = sum1, sum3 = sum1;
        for (std::int64_t q = 0; q < quads; q += 4, codes += 256, acts += 16) {
            dot(sum0, load(codes), acts);
            dot(sum1, load(codes + 64), acts + 4);
            dot(sum2, load(codes + 128), acts + 8);
            dot(sum3, load(codes + 192), acts + 12);
        }
        const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(sum0, sum1), _mm512_add_epi32(sum2, sum3));
        finish(job, block, b * kRows, 0, sum, job.acts.scales[0]);
    }
}

// R blocks of rows by P panels of tokens, all sums in registers. Meanwhile it asks for `Lines` cache lines
// of weights at `ahead` for each one that it reads of a block, and for the activations of the next panels.
template <int R, int P, int Lines>
void tile(const LinearJob& job, std::int64_t block, std::int64_t token, const std::uint8_t* ahead) {
    constexpr int T = P * kPanel;
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::uint8_t* codes = w.data + static_cast<std::size_t>(block) * w.block_bytes;
    const std::int8_t* panel = panel_codes(acts, token);
    const std::size_t down = w.block_bytes;
    const std::int64_t right = acts.k * kPanel;
    __m512i sums[R][T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[r][t] = _mm512_set1_epi32(acts.offsets[token + t]);
    }
    for (std::int64_t q = 0; q < w.k / 4; ++q, codes += 64, panel += 4 * kPanel) {
        __m512i rows[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) rows[r] = load(codes + r * down);
#pragma GCC unroll 4
        for (int line = 0; line < Lines; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
        if (R > 1) {
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) __builtin_prefetch(panel + (P + p) * right, 0, 3);
        }
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
            const __m512i quad = repeat(panel + (t / kPanel) * right + (t % kPanel) * 4);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) dot(sums[r][t], rows[r], quad);
        }
    }
    codes -= w.k * kRows;
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
        if (token + t >= acts.m) break;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            finish(job, codes + r * down, (block + r) * kRows, token + t, sums[r][t], acts.scales[token + t]);
        }
    }
}

// Up to 16 tokens: memory decides. One stream of weights, read once, and asked for well ahead.
template <int P>
void few(const LinearJob& job, const Part& part) {
    for (std::int64_t b = part.block_first; b < part.block_last; ++b) {
        const std::uint8_t* block = job.weights.data + static_cast<std::size_t>(b) * job.weights.block_bytes;
        tile<1, P, 1>(job, b, part.token_first, block + kAhead);
    }
}

// R blocks and all tokens. The first passes over these weights ask for the next R blocks, a third each.
template <int R>
void many(const LinearJob& job, std::int64_t block, const Part& part) {
    const Weights& w = job.weights;
    const std::uint8_t* ahead = w.data + static_cast<std::size_t>(block + R) * w.block_bytes;
    const std::uint8_t* end = ahead + R * w.block_bytes;
    std::int64_t token = part.token_first;
    for (; part.token_last - token > kPanel; token += 2 * kPanel, ahead += w.block_bytes) {
        if (ahead < end) {
            tile<R, 2, 1>(job, block, token, ahead);
        } else {
            tile<R, 2, 0>(job, block, token, ahead);
        }
    }
    if (token < part.token_last) tile<R, 1, 0>(job, block, token, ahead);
}

}  // namespace

void avx512_linear_rows(const LinearJob& job, const Part& part, std::uint8_t*) {
    if (job.acts.width == 1) return single(job, part.block_first, part.block_last);
    switch ((part.token_last - part.token_first + kPanel - 1) / kPanel) {
        case 1: return few<1>(job, part);
        case 2: return few<2>(job, part);
        case 3: return few<3>(job, part);
        case 4: return few<4>(job, part);
        default: break;
    }
    std::int64_t block = part.block_first;
    for (; block + 3 <= part.block_last; block += 3) many<3>(job, block, part);
    for (; block < part.block_last; ++block) many<1>(job, block, part);
}

}  // namespace nearfield
