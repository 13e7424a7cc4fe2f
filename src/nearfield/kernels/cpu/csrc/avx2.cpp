// The kernels for AVX2 and FMA. Codes are widened to 16 bits and multiplied by vpmaddwd, whose pairs of
// products fit 32 bits; vpmaddubsw would saturate. Compiled with -mavx2 -mfma: nothing here may be an
// inline function of the standard library.
#include <immintrin.h>

#include "blockwise_body.hpp"
#include "dense.hpp"
#include "kernels.hpp"
#include "quantize_body.hpp"

namespace nearfield {
namespace {

inline __m256i four_codes(const std::int8_t* acts) {
    std::int32_t quad;
    std::memcpy(&quad, acts, sizeof quad);
    return _mm256_cvtepi8_epi16(_mm_set1_epi32(quad));
}

inline __m256i sixteen_weights(const std::uint8_t* weights) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights)));
}

// Sums of the neighbours of two registers, in order.
inline __m256i fold(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8);
}

struct Avx2Ops {
    static void dot(const std::uint8_t* weights, const std::int8_t* acts, std::int64_t quads, int stride,
                    std::int32_t* dots) {
        __m256i sums[8];
        for (__m256i& sum : sums) sum = _mm256_setzero_si256();
        std::int64_t q = 0;
        for (; q + 2 <= quads; q += 2, weights += 128, acts += 2 * stride) {
            const __m256i even = four_codes(acts), odd = four_codes(acts + stride);
            for (int i = 0; i < 4; ++i) {
                const __m256i one = _mm256_madd_epi16(sixteen_weights(weights + 16 * i), even);
                const __m256i two = _mm256_madd_epi16(sixteen_weights(weights + 64 + 16 * i), odd);
                sums[i] = _mm256_add_epi32(sums[i], one);
                sums[4 + i] = _mm256_add_epi32(sums[4 + i], two);
            }
        }
        for (int i = 0; i < 4; ++i) sums[i] = _mm256_add_epi32(sums[i], sums[4 + i]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots), fold(sums[0], sums[1]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots + 8), fold(sums[2], sums[3]));
    }

    static void accumulate(const std::int32_t* dots, const float* scales, float scale, float* sums) {
        for (int r = 0; r < kRows; r += 8) {
            const __m256i dot = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(dots + r));
            const __m256 factor = _mm256_mul_ps(_mm256_loadu_ps(scales + r), _mm256_set1_ps(scale));
            const __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, _mm256_loadu_ps(sums + r));
            _mm256_storeu_ps(sums + r, sum);
        }
    }
};

std::uint64_t read(const std::uint8_t* data, std::size_t bytes) {
    __m256i sums[8];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (std::size_t i = 0; i + 256 <= bytes; i += 256) {
        const __m256i* words = reinterpret_cast<const __m256i*>(data + i);
        for (int j = 0; j < 8; ++j) sums[j] = _mm256_add_epi64(sums[j], _mm256_loadu_si256(words + j));
    }
    for (int j = 1; j < 8; ++j) sums[0] = _mm256_add_epi64(sums[0], sums[j]);
    std::uint64_t lanes[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums[0]);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

// Twelve sums hide the latency of both pipes.
constexpr int kSums = 12;

double mac_int8(std::int64_t rounds) {
    __m256i sums[kSums];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    __m256i weights = _mm256_set1_epi16(3), acts = _mm256_set1_epi16(5);
    for (std::int64_t i = 0; i < rounds; ++i) {
        for (__m256i& sum : sums) {
            __m256i product;
            __asm__ volatile("vpmaddwd %2, %1, %0" : "=x"(product) : "x"(weights), "x"(acts));
            __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
        }
    }
    return static_cast<double>(rounds) * kSums * 16;
}

double mac_fp32(std::int64_t rounds) {
    __m256 sums[kSums];
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    __m256 weights = _mm256_set1_ps(3.0f), acts = _mm256_set1_ps(5.0f);
    for (std::int64_t i = 0; i < rounds; ++i) {
        for (__m256& sum : sums) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(weights), "x"(acts));
    }
    return static_cast<double>(rounds) * kSums * 8;
}

}  // namespace

const Kernels& avx2_kernels() {
    static const Kernels kernels = {"avx2", &avx2_floats, &avx2_attention, quantize, linear_blockwise<Avx2Ops>, read,
                                    mac_int8, nullptr, mac_fp32, &avx2_fp32, &avx2_bf16, 0, kNever};
    return kernels;
}

}  // namespace nearfield
