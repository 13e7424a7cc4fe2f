// Int8 weights with one scale a row, by AVX-512 VNNI: int32 sums over all of k, one float step at the end.
#include "avx512_steps.hpp"

namespace nearfield {
namespace {

// Up to 16 tokens: memory decides. R blocks (a pair, if two) go by once, asked for well ahead; all sums by T tokens are in
// registers, in C chains each, so that none waits for its last product.
template <int R, int C, int T>
void tile(const LinearJob& job, std::int64_t b, std::int64_t token) {
    constexpr int width = T == 1 ? 1 : kPanel;
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::uint8_t* data = w.data + static_cast<std::size_t>(b) * w.block_bytes;
    const std::int8_t* panel = panel_codes(acts, token);
    const std::int64_t right = acts.k * width, bytes = w.k * kRows;
    const std::size_t down = static_cast<std::size_t>(to_second(job)) * w.block_bytes;
    const int together = R == 1 ? 1 : across(job);
    __m512i sums[C][R][T];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t) sums[c][r][t] = _mm512_set1_epi32(c ? 0 : acts.offsets[token + t]);
        }
    }
    for (std::int64_t at = 0; at < bytes; at += 64 * C, panel += 4 * width * C) {
        const std::uint8_t* codes = data + at;
        const std::uint8_t* ahead = codes + to_ask(w, static_cast<std::size_t>(at), together);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
            __m512i rows[R];
#pragma GCC unroll 2
            for (int r = 0; r < R; ++r) {
                __builtin_prefetch(ahead + r * down + 64 * c, 0, 2);
                rows[r] = load(codes + r * down + 64 * c);
            }
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t) {
                const __m512i quad = repeat(panel + t / width * right + (c * width + t % width) * 4);
#pragma GCC unroll 2
                for (int r = 0; r < R; ++r) dot(sums[c][r][t], rows[r], quad);
            }
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
        if (token + t >= acts.m) continue;
        __m512 ends[R];
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
            __m512i sum = sums[0][r][t];
#pragma GCC unroll 4
            for (int c = 1; c < C; ++c) sum = _mm512_add_epi32(sum, sums[c][r][t]);
            ends[r] = scaled(job, data + r * down, sum, acts.scales[token + t]);
        }
        store_all(job, b, token + t, ends);
    }
}

template <int C, int T>
void few(const LinearJob& job, const Part& part) {
    constexpr int pair = T > kPairs ? 1 : 2;
    const int step = pair == 1 ? 1 : across(job);
    std::int64_t b = part.block_first;
    for (; b + step <= part.block_last; b += step) tile<pair, C, T>(job, b, part.token_first);
    for (; b < part.block_last; ++b) tile<1, C, T>(job, b, part.token_first);
}

// Many tokens: arithmetic decides. kChunk columns of R blocks stay in the L1 cache while all tokens go by, two
// panels at a time; the integer sums wait in scratch memory between the chunks.
constexpr std::int64_t kChunk = 512;

struct Span {
    std::int64_t first, last;  // columns
};

// The end of R blocks by T tokens. What is not there to be added is -0, since x + -0 is x.
template <int R, int T>
inline void finish_tile(const LinearJob& job, std::int64_t block, std::int64_t token, __m512i (&sums)[R][T]) {
    alignas(64) static constexpr float nothing[kRows] = {-0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f,
                                                         -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f};
    const Weights& w = job.weights;
    const std::uint8_t* data = w.data + static_cast<std::size_t>(block) * w.block_bytes;
    if (token + T > job.acts.m || (block + R) * kRows > w.n) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {  // unrolled to the end, since sums with a variable index would leave the registers
            if (token + t >= job.acts.m) continue;
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                const __m512 end = scaled(job, data + r * w.block_bytes, sums[r][t], job.acts.scales[token + t]);
                store(job, (block + r) * kRows, token + t, end);
            }
        }
        return;
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
        const std::int64_t row = (block + r) * kRows;
        const __m512 scales = _mm512_load_ps(data + (r + 1) * w.block_bytes - 64);
        const __m512 bias = _mm512_loadu_ps(job.bias ? job.bias + row : nothing);
        const float* residual = job.residual ? job.residual + token * job.residual_stride + row : nothing;
        const std::int64_t residual_stride = job.residual ? job.residual_stride : 0;
        float* y = job.y + token * job.y_stride + row;
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t, y += job.y_stride, residual += residual_stride) {
            const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(job.acts.scales[token + t]));
            const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][t]), factor, _mm512_setzero_ps());
            _mm512_storeu_ps(y, _mm512_add_ps(_mm512_add_ps(sum, bias), _mm512_loadu_ps(residual)));
        }
    }
}

template <int R, int P>
void chunk(const LinearJob& job, std::int64_t block, std::int64_t token, Span span, std::int32_t* waiting,
           Ahead& ahead) {
    constexpr int T = P * kPanel;
    const Weights& w = job.weights;
    const Acts& acts = job.acts;
    const std::uint8_t* base = w.data + static_cast<std::size_t>(block) * w.block_bytes;
    const std::uint8_t* codes = base + span.first * kRows;
    const std::int8_t* panel = panel_codes(acts, token) + span.first * kPanel;
    const std::size_t down = w.block_bytes;
    const std::int64_t right = acts.k * kPanel;
    if (span.last == w.k) expect_rows(job, block * kRows, token, R);
    __m512i sums[R][T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            sums[r][t] = span.first ? _mm512_load_si512(waiting + (t * R + r) * kRows)
                                    : _mm512_set1_epi32(acts.offsets[token + t]);
        }
    }
    for (std::int64_t line = span.first; line < span.last; line += 16) {
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) __builtin_prefetch(panel + (P + p) * right, 0, 3);
        ahead.ask();
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q, codes += 64, panel += 4 * kPanel) {
            __m512i rows[R];
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) rows[r] = load(codes + r * down);
#pragma GCC unroll 16
            for (int t = 0; t < T; ++t) {
                const __m512i quad = repeat(panel + (t / kPanel) * right + (t % kPanel) * 4);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) dot(sums[r][t], rows[r], quad);
            }
        }
    }
    if (span.last == w.k) return finish_tile<R, T>(job, block, token, sums);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) _mm512_store_si512(waiting + (t * R + r) * kRows, sums[r][t]);
    }
}

template <int R>
void many(const LinearJob& job, std::int64_t block, const Part& part, std::int32_t* waiting) {
    const std::int64_t k = job.weights.k, count = (k + kChunk - 1) / kChunk;
    Ahead ahead = next_blocks(job.weights, block, R, part);
    for (std::int64_t c = 0; c < count; ++c) {
        const Span span{k / 32 * c / count * 32, k / 32 * (c + 1) / count * 32};
        std::int32_t* at = waiting;
        std::int64_t token = part.token_first;
        for (; part.token_last - token > kPanel; token += 2 * kPanel, at += 2 * kPanel * R * kRows) {
            chunk<R, 2>(job, block, token, span, at, ahead);
        }
        if (token < part.token_last) chunk<R, 1>(job, block, token, span, at, ahead);
    }
}

}  // namespace

void avx512_linear_rows(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    if (job.acts.width == 1) return few<4, 1>(job, part);
    switch ((part.token_last - part.token_first + kPanel - 1) / kPanel) {
        case 1: return few<2, 4>(job, part);
        case 2: return few<1, 8>(job, part);
        case 3: return few<1, 12>(job, part);
        case 4: return few<1, 16>(job, part);
        default: break;
    }
    std::int32_t* waiting = reinterpret_cast<std::int32_t*>(scratch);
    std::int64_t block = part.block_first;
    for (; block + 3 <= part.block_last; block += 3) many<3>(job, block, part, waiting);
    for (; block < part.block_last; ++block) many<1>(job, block, part, waiting);
}

}  // namespace nearfield
