// quantize_body.hpp written for AVX-512, with the same bits: a panel's four tokens at once, so that their
// codes are interleaved in registers.
#include "avx512.hpp"

namespace nearfield {
namespace {

constexpr std::int32_t kInfinity = 0x7f800000;
constexpr std::int32_t kTiny = 0x0d800000;  // 2^-100

inline __m512i peak_of(const float* x, std::int64_t count) {
    __m512i peak = _mm512_setzero_si512();
    for (std::int64_t i = 0; i < count; i += 16) {
        const __m512i sizes = _mm512_and_si512(_mm512_loadu_si512(x + i), _mm512_set1_epi32(0x7fffffff));
        peak = _mm512_max_epi32(peak, sizes);
    }
    return peak;
}

struct Largest {
    static __m256i of(__m256i a, __m256i b) { return _mm256_max_epi32(a, b); }
    static __m128i of(__m128i a, __m128i b) { return _mm_max_epi32(a, b); }
};

struct Sum {
    static __m256i of(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
    static __m128i of(__m128i a, __m128i b) { return _mm_add_epi32(a, b); }
};

// The largest, or the sum, of the lanes of each of four registers.
template <class Op>
inline __m128i fold(const __m512i* wide) {
    __m128i part[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) {
        const __m256i half = Op::of(_mm512_castsi512_si256(wide[t]), _mm512_extracti64x4_epi64(wide[t], 1));
        part[t] = Op::of(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    }
    const __m128i low = Op::of(_mm_unpacklo_epi32(part[0], part[1]), _mm_unpackhi_epi32(part[0], part[1]));
    const __m128i high = Op::of(_mm_unpacklo_epi32(part[2], part[3]), _mm_unpackhi_epi32(part[2], part[3]));
    return Op::of(_mm_unpacklo_epi64(low, high), _mm_unpackhi_epi64(low, high));
}

// 16 columns of W tokens to their panel.
template <int W>
inline void put(std::int8_t* out, const __m128i* codes) {
    if (W == 1) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), codes[0]);
        return;
    }
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    __m512i all = _mm512_castsi128_si512(codes[0]);
    all = _mm512_inserti32x4(all, codes[1 % W], 1);
    all = _mm512_inserti32x4(all, codes[2 % W], 2);
    all = _mm512_inserti32x4(all, codes[3 % W], 3);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, all));
}

// One group of W tokens: a scale and an offset each, and codes.
template <int W>
inline void group_of(const float* const* x, std::int64_t start, std::int64_t count, std::int32_t zero,
                     std::int8_t* out, float* scales, std::int32_t* offsets) {
    __m512i sums[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) sums[t] = t < W ? peak_of(x[t] + start, count) : _mm512_setzero_si512();
    const __m128i peak = fold<Largest>(sums);
    const __m128 size = _mm_castsi128_ps(peak), most = _mm_set1_ps(127.0f);
    const __mmask8 bad = _mm_cmpge_epi32_mask(peak, _mm_set1_epi32(kInfinity));
    const __mmask8 plain = _mm_cmpge_epi32_mask(peak, _mm_set1_epi32(kTiny)) & ~bad;
    const __m128 nan = _mm_castsi128_ps(_mm_set1_epi32(0x7fc00000));
    alignas(16) float scale[4], factor[4];
    _mm_store_ps(scale, _mm_mask_blend_ps(bad, _mm_maskz_div_ps(plain, size, most), nan));
    _mm_store_ps(factor, _mm_maskz_div_ps(plain, most, size));
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) sums[t] = _mm512_setzero_si512();
    for (std::int64_t i = 0; i < count; i += 16) {
        __m128i codes[W];
#pragma GCC unroll 4
        for (int t = 0; t < W; ++t) {
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x[t] + start + i), _mm512_set1_ps(factor[t]));
            const __m512i code = _mm512_cvtps_epi32(scaled);
            sums[t] = _mm512_add_epi32(sums[t], code);
            codes[t] = _mm512_cvtepi32_epi8(code);  // a NaN's is 0x80000000, which ends in a zero byte
        }
        put<W>(out + i * W, codes);
    }
    const __mmask8 written = (1 << W) - 1;
    const __m128i offset = _mm_maskz_mullo_epi32(plain, fold<Sum>(sums), _mm_set1_epi32(-zero));
    _mm_mask_storeu_ps(scales, written, _mm_load_ps(scale));
    _mm_mask_storeu_epi32(offsets, written, offset);
}

// Tokens first .. first+W-1; beyond the last one, the first one stands in, and nobody reads the result.
template <int W>
void panel_of(const QuantizeJob& job, std::int64_t first) {
    const Acts& acts = job.acts;
    const std::int64_t groups = acts.k / acts.group;
    const float* x[W];
    for (int t = 0; t < W; ++t) x[t] = job.x + (first + t < acts.m ? first + t : first) * job.stride;
    for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t at = first * groups + g * W;
        group_of<W>(x, g * acts.group, acts.group, job.zero, acts.codes + first * acts.k + g * acts.group * W,
                    acts.scales + at, acts.offsets + at);
    }
}

}  // namespace

void avx512_quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last) {
    if (job.acts.width == 1) {
        for (std::int64_t token = first; token < last; ++token) panel_of<1>(job, token);
    } else {
        for (std::int64_t token = first; token < last; token += kPanel) panel_of<kPanel>(job, token);
    }
}

}  // namespace nearfield
