// Sixteen floats at once, for AVX-512. The bodies (*_body.hpp) are written once over this type and compiled
// for each instruction set; every operation here is exact or rounded once, so that all give the same bits.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nearfield {
namespace {

struct Vec {
    __m512 v;
};

// How many Vecs the registers hold beside each other: attention multiplies kTogether queries (8 at most) by
// kColumns Vecs of K or V at once. Bits do not depend on it.
constexpr int kTogether = 8, kColumns = 2;
// The same for whole tiles in scratch, which need no widening: more of a tile for fewer queries.
constexpr int kTogetherCopied = 6, kColumnsCopied = 4;
// The same where even and odd products have sums of their own, in scratch, and one Vec of pairs in the cache.
constexpr int kTogetherHalves = 7, kColumnsHalves = 2, kTogetherPairs = 8;

inline Vec all(float x) { return {_mm512_set1_ps(x)}; }
inline Vec zeros() { return {_mm512_setzero_ps()}; }

inline __mmask16 first_lanes(std::int64_t n) {
    return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1);
}

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }

// The first n lanes; the others are zero, and memory beyond is not touched.
inline Vec load(const float* p, std::int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store(float* p, Vec a, std::int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

// bf16 is the upper half of a float.
inline Vec widen(__m256i halves) {
    // One instruction, where widening and a shift are two.
    const __m512i odd = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4, 0, 3,
                                         0, 2, 0, 1, 0, 0, 0);
    return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, odd, _mm512_castsi256_si512(halves)))};
}
inline Vec load(const std::uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load(const std::uint16_t* p, std::int64_t n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }

// 16 words of two bf16: the upper ones, and the lower ones.
inline void load_halves(const std::uint16_t* p, Vec& upper, Vec& lower) {
    const __m512i words = _mm512_loadu_si512(p);
    upper = {_mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-65536)))};
    lower = {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16))};
}

// To bf16, half to even; a NaN stays one.
inline __m256i narrow(Vec a) {
    const __m512i bits = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
// The same, as floats.
inline Vec rounded(Vec a) { return widen(narrow(a)); }
inline void store(std::uint16_t* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
inline void store(std::uint16_t* p, Vec a, std::int64_t n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(a)); }
// The same to every other half.
inline void store_apart(std::uint16_t* p, Vec a, std::int64_t n) {
    const __mmask32 kept = n >= 16 ? 0x55555555 : 0x55555555 & ((1u << 2 * n) - 1);
    _mm512_mask_storeu_epi16(p, kept, _mm512_cvtepu16_epi32(narrow(a)));
}

// Whole numbers of -128 .. 127, the first n lanes.
inline void store(std::int8_t* p, Vec a, std::int64_t n) {
    _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// sum = a * b + sum, rounded once. The compiler's intrinsic lets GCC 12 copy sums about once it has 24 of them.
inline void accumulate(Vec& sum, Vec a, Vec b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
}
inline Vec root(Vec a) { return {_mm512_sqrt_ps(a.v)}; }

// a < b ? a : b, and a > b ? a : b: b where either is NaN.
inline Vec least(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec greatest(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }

// where a < b: x, else y (y where either is NaN).
inline Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}

// a, with one and the same NaN wherever it has any.
inline Vec one_nan(Vec a) {
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    return {_mm512_castsi512_ps(_mm512_mask_mov_epi32(_mm512_castps_si512(a.v), nan, _mm512_set1_epi32(0x7fc00000)))};
}

// Lanes [from, to) of a, `other` elsewhere.
inline Vec lanes(Vec a, std::int64_t from, std::int64_t to, Vec other) {
    const __mmask16 kept = first_lanes(to < 0 ? 0 : to) & static_cast<__mmask16>(~first_lanes(from < 0 ? 0 : from));
    return {_mm512_mask_blend_ps(kept, other.v, a.v)};
}

// a < b ? 0 : p * 2^n, for whole numbers n of -126 .. 127 wherever it is not 0, and products that are not subnormal.
inline Vec scale_unless_less(Vec a, Vec b, Vec p, Vec n) {
    return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_NLT_UQ), p.v, n.v)};
}

// The lanes folded in halves: 8 with 8, 4 with 4, 2 with 2, 1 with 1.
inline float sum(Vec a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vec a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Sixteen sums in double, a lane each; `total` folds them as `sum` does.
struct Sums {
    __m512d low, high;
};

inline Sums no_sums() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
inline void add(Sums& sums, Vec a) {
    sums.low = _mm512_add_pd(sums.low, _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)));
    sums.high = _mm512_add_pd(sums.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)));
}
inline double total(const Sums& sums) {
    const __m512d eight = _mm512_add_pd(sums.low, sums.high);
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace
}  // namespace nearfield
