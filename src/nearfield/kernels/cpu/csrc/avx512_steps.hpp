// The steps of a linear operation that the AVX-512 and AMX kernels share: opening codes and scales, and ending sums.
#pragma once

#include "vec_avx512.hpp"

#include "avx512.hpp"
#include "math_body.hpp"

namespace nearfield {
namespace {

// One scale a row: from the integer sum of a block by a token to floats.
inline __m512 scaled(const LinearJob& job, const std::uint8_t* block, __m512i sum, float scale) {
    const __m512 scales = _mm512_load_ps(block + job.weights.block_bytes - 64);
    const __m512 factor = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, _mm512_setzero_ps());
}

// y of a pair that is gated: `row` is the first of the gates.
inline void store_gated(const LinearJob& job, std::int64_t row, std::int64_t token, __m512 gates, __m512 values) {
    if (job.bias) gates = _mm512_add_ps(gates, _mm512_loadu_ps(job.bias + row));
    if (job.bias) values = _mm512_add_ps(values, _mm512_loadu_ps(job.bias + row + to_second(job) * kRows));
    store(job.y + token * job.y_stride + row, silu(Vec{gates}) * Vec{values});
}

// The same of R blocks, two being a pair, gated or not.
template <int R>
inline void store_all(const LinearJob& job, std::int64_t block, std::int64_t token, const __m512 (&ends)[R]) {
    if (R == 2 && job.gated) return store_gated(job, block * kRows, token, ends[0], ends[R - 1]);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) store(job, (block + r) * kRows, token, ends[r]);
}

template <Scale S>
inline __m512 scales_at(const std::uint8_t* at) {
    const __m256i halves = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
    if (S == Scale::f16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

inline __m512i zeros_at(const std::uint8_t* at) {
    return _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
}

// What the integer sums start from. A sum of 128 codes fits 16 bits, so one vpmaddwd multiplies it by the
// zero points.
template <bool Z>
inline __m512i start(__m512i zeros, std::int32_t offset) {
    if (!Z) return _mm512_set1_epi32(offset);
    return _mm512_madd_epi16(zeros, _mm512_set1_epi32(offset & 0xffff));
}

inline __m512 add_group(__m512 sum, __m512i dots, __m512 scales, float scale) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_mul_ps(scales, _mm512_set1_ps(scale)), sum);
}

template <int Bits>
inline void open_codes(const std::uint8_t* from, std::int64_t columns, std::uint8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    for (std::int64_t k = 0; k < columns; k += 8, to += 128) {
        if (Bits == 4) {
            const __m512i both = load(from);
            _mm512_store_si512(to, _mm512_and_si512(both, low));
            _mm512_store_si512(to + 64, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
            from += 64;
        } else {
            _mm512_store_si512(to, load(from));
            _mm512_store_si512(to + 64, load(from + 64));
            from += 128;
        }
    }
}

}  // namespace
}  // namespace nearfield
