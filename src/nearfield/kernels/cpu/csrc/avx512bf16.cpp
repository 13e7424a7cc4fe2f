// Dense bf16 weights by vdpbf16ps, which multiplies and adds two columns at a time, and its measure.
#include "vec_avx512.hpp"

#include "dense_body.hpp"

#include "avx512_sizes.hpp"

#include "kernels.hpp"

namespace nearfield {
namespace {

// A line is two columns, and a word their two activations. The instruction begins with the upper halves.
struct Paired {
    static constexpr int kColumns = 2, kWords = 1;
    using Row = __m512i;
    using Act = __m512i;

    static void convert(const float* x, std::int64_t columns, float* words) {
        for (std::int64_t i = 0; i < columns; i += 16) {
            const __m256i pairs = _mm256_rol_epi32(narrow(load(x + i, columns - i)), 16);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i / 2), pairs);
        }
    }
    static Row row(const std::uint8_t* line) { return _mm512_load_si512(line); }
    static Act act(const float* words, int) { return _mm512_castps_si512(_mm512_set1_ps(*words)); }
    static void add(Vec& sum, const Row& row, const Act& act) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(row), "v"(act));
    }
};

}  // namespace

const DenseKernels avx512_bf16_pairs = {"bf16-dp", Paired::kWords, kPanel, pack<Paired>, multiply<Paired, Sizes>};

double avx512_mac_bf16(std::int64_t rounds) {
    constexpr int kSums = 12;  // they hide the latency of both pipes
    __m512 sums[kSums];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    const __m512i weights = _mm512_set1_epi16(0x3f80), acts = _mm512_set1_epi16(0x3f80);
    for (std::int64_t i = 0; i < rounds; ++i) {
        for (__m512& sum : sums) __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(acts));
    }
    return static_cast<double>(rounds) * kSums * 32;
}

}  // namespace nearfield
