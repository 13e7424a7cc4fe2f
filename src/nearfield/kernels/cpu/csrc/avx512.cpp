// The table of AVX-512 kernels: which linear operation runs, and the loops that measure limits.
#include "avx512.hpp"
#include "dense.hpp"
#include "kernels.hpp"

namespace nearfield {
namespace {

void linear(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    scaled_by_row(job.weights) ? avx512_linear_rows(job, part, scratch) : avx512_linear_groups(job, part, scratch);
    if (job.past) _mm_sfence();
}

std::uint64_t read(const std::uint8_t* data, std::size_t bytes) {
    __m512i sums[8];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    for (std::size_t i = 0; i + 512 <= bytes; i += 512) {
        for (int j = 0; j < 8; ++j) sums[j] = _mm512_add_epi64(sums[j], _mm512_loadu_si512(data + i + 64 * j));
    }
    for (int j = 1; j < 8; ++j) sums[0] = _mm512_add_epi64(sums[0], sums[j]);
    return static_cast<std::uint64_t>(_mm512_reduce_add_epi64(sums[0]));
}

// Twelve sums hide the latency of both pipes.
constexpr int kSums = 12;

double mac_int8(std::int64_t rounds) {
    __m512i sums[kSums];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    const __m512i weights = _mm512_set1_epi8(3), acts = _mm512_set1_epi8(5);
    for (std::int64_t i = 0; i < rounds; ++i) {
        for (__m512i& sum : sums) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(acts));
    }
    return static_cast<double>(rounds) * kSums * 64;
}

double mac_fp32(std::int64_t rounds) {
    __m512 sums[kSums];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    const __m512 weights = _mm512_set1_ps(3.0f), acts = _mm512_set1_ps(5.0f);
    for (std::int64_t i = 0; i < rounds; ++i) {
        for (__m512& sum : sums) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(acts));
    }
    return static_cast<double>(rounds) * kSums * 16;
}

}  // namespace

const Kernels& avx512_kernels() {
    static const Kernels kernels = {"avx512", &avx512_floats, &avx512_attention, avx512_quantize, linear, read,
                                    mac_int8, nullptr, mac_fp32, &avx512_fp32, &avx512_bf16, kPairs, kNever};
    return kernels;
}

}  // namespace nearfield
