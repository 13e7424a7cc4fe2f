// Sixteen floats at once, for AVX2 and FMA: vec_avx512.hpp says what each operation is.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace nearfield {
namespace {

struct Vec {
    __m256 low, high;
};

constexpr int kTogether = 6, kColumns = 1;
constexpr int kTogetherCopied = 6, kColumnsCopied = 1;
constexpr int kTogetherHalves = 6, kColumnsHalves = 1, kTogetherPairs = 3;

inline Vec all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }

inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
}

inline Vec load(const float* p, std::int64_t n) {
    if (n >= 16) return load(p);
    alignas(32) float part[16] = {};
    std::memcpy(part, p, static_cast<std::size_t>(n) * sizeof(float));
    return load(part);
}
inline void store(float* p, Vec a, std::int64_t n) {
    if (n >= 16) return store(p, a);
    alignas(32) float part[16];
    store(part, a);
    std::memcpy(p, part, static_cast<std::size_t>(n) * sizeof(float));
}

inline __m256 widen(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline Vec load(const std::uint16_t* p) {
    const __m128i* at = reinterpret_cast<const __m128i*>(p);
    return {widen(_mm_loadu_si128(at)), widen(_mm_loadu_si128(at + 1))};
}
inline Vec load(const std::uint16_t* p, std::int64_t n) {
    if (n >= 16) return load(p);
    std::uint16_t part[16] = {};
    std::memcpy(part, p, static_cast<std::size_t>(n) * sizeof *p);
    return load(part);
}

inline void load_halves(const std::uint16_t* p, Vec& upper, Vec& lower) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
    const __m256i mask = _mm256_set1_epi32(-65536);
    upper = {_mm256_castsi256_ps(_mm256_and_si256(low, mask)), _mm256_castsi256_ps(_mm256_and_si256(high, mask))};
    lower = {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}

inline __m256i narrow(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    const __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_srli_epi32(_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, nan)), 16);
}
inline Vec rounded(Vec a) {
    const auto half = [](__m256 x) { return _mm256_castsi256_ps(_mm256_slli_epi32(narrow(x), 16)); };
    return {half(a.low), half(a.high)};
}
inline void store(std::uint16_t* p, Vec a) {
    const __m256i packed = _mm256_packus_epi32(narrow(a.low), narrow(a.high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline void store(std::uint16_t* p, Vec a, std::int64_t n) {
    if (n >= 16) return store(p, a);
    std::uint16_t part[16];
    store(part, a);
    std::memcpy(p, part, static_cast<std::size_t>(n) * sizeof *p);
}
inline void store_apart(std::uint16_t* p, Vec a, std::int64_t n) {
    std::uint16_t part[16];
    store(part, a);
    for (std::int64_t i = 0; i < 16 && i < n; ++i) p[2 * i] = part[i];
}

inline void store(std::int8_t* p, Vec a, std::int64_t n) {
    const __m256i halves = _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high));
    const __m256i ordered = _mm256_permute4x64_epi64(halves, 0xd8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    if (n >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    std::int8_t part[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(part), bytes);
    std::memcpy(p, part, static_cast<std::size_t>(n));
}

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline void accumulate(Vec& sum, Vec a, Vec b) { sum = fma(a, b, sum); }
inline Vec root(Vec a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
inline Vec least(Vec a, Vec b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Vec greatest(Vec a, Vec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }

inline Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    return {_mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}

inline __m256 one_nan(__m256 a) {
    const __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_blendv_ps(a, quiet, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
inline Vec one_nan(Vec a) { return {one_nan(a.low), one_nan(a.high)}; }

inline __m256 lanes(__m256 a, std::int64_t first, std::int64_t from, std::int64_t to, __m256 other) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const auto clamp = [first](std::int64_t n) {
        const std::int64_t place = n - first;
        return _mm256_set1_epi32(static_cast<int>(place < -1 ? -1 : place > 9 ? 9 : place));
    };
    const __m256i early = _mm256_cmpgt_epi32(clamp(from), lane), kept = _mm256_cmpgt_epi32(clamp(to), lane);
    return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(_mm256_andnot_si256(early, kept)));
}
inline Vec lanes(Vec a, std::int64_t from, std::int64_t to, Vec other) {
    return {lanes(a.low, 0, from, to, other.low), lanes(a.high, 8, from, to, other.high)};
}

inline __m256 power_of_two(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
inline Vec scale_unless_less(Vec a, Vec b, Vec p, Vec n) {
    return where_less(a, b, zeros(), p * Vec{power_of_two(n.low), power_of_two(n.high)});
}

inline float sum(Vec a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vec a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

struct Sums {
    __m256d lanes[4];
};

inline Sums no_sums() { return {{_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}}; }
inline void add(Sums& sums, Vec a) {
    sums.lanes[0] = _mm256_add_pd(sums.lanes[0], _mm256_cvtps_pd(_mm256_castps256_ps128(a.low)));
    sums.lanes[1] = _mm256_add_pd(sums.lanes[1], _mm256_cvtps_pd(_mm256_extractf128_ps(a.low, 1)));
    sums.lanes[2] = _mm256_add_pd(sums.lanes[2], _mm256_cvtps_pd(_mm256_castps256_ps128(a.high)));
    sums.lanes[3] = _mm256_add_pd(sums.lanes[3], _mm256_cvtps_pd(_mm256_extractf128_ps(a.high, 1)));
}
inline double total(const Sums& sums) {
    const __m256d four = _mm256_add_pd(_mm256_add_pd(sums.lanes[0], sums.lanes[2]),
                                       _mm256_add_pd(sums.lanes[1], sums.lanes[3]));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace
}  // namespace nearfield
