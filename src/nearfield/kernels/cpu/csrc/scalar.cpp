// The kernels in plain C++: what runs on any processor, and what the others must equal bit for bit.
#include "blockwise_body.hpp"
#include "dense.hpp"
#include "kernels.hpp"
#include "quantize_body.hpp"

namespace nearfield {
namespace {

struct ScalarOps {
    static void dot(const std::uint8_t* weights, const std::int8_t* acts, std::int64_t quads, int stride,
                    std::int32_t* dots) {
        // Unsigned, because sums may wrap before the offset brings them back.
        std::uint32_t sums[kRows] = {};
        for (std::int64_t q = 0; q < quads; ++q, weights += 64, acts += stride) {
            for (int r = 0; r < kRows; ++r) {
                for (int j = 0; j < 4; ++j) {
                    sums[r] += static_cast<std::uint32_t>(std::int32_t{weights[4 * r + j]} * std::int32_t{acts[j]});
                }
            }
        }
        std::memcpy(dots, sums, sizeof sums);
    }

    static void accumulate(const std::int32_t* dots, const float* scales, float scale, float* sums) {
        for (int r = 0; r < kRows; ++r) {
            sums[r] = fused_multiply_add(static_cast<float>(dots[r]), scales[r] * scale, sums[r]);
        }
    }
};

std::uint64_t read(const std::uint8_t* data, std::size_t bytes) {
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i + 64 <= bytes; i += 64) {
        for (int j = 0; j < 8; ++j) {
            std::uint64_t word;
            std::memcpy(&word, data + i + 8 * j, sizeof word);
            sums[j] += word;
        }
    }
    std::uint64_t sum = 0;
    for (std::uint64_t part : sums) sum += part;
    return sum;
}

// Multiply-adds on 16 lanes that the compiler may neither drop nor reorder away.
template <class T>
double mac(std::int64_t rounds) {
    T sums[16] = {};
    volatile T source = 3;
    const T factor = source;
    for (std::int64_t i = 0; i < rounds; ++i) {
        for (T& sum : sums) sum += factor * static_cast<T>(i & 1);
    }
    for (T sum : sums) source = sum;
    return static_cast<double>(rounds) * 16;
}

}  // namespace

const Kernels& scalar_kernels() {
    static const Kernels kernels = {"scalar", &scalar_floats, &scalar_attention, quantize, linear_blockwise<ScalarOps>, read,
                                    mac<std::int32_t>, nullptr, mac<float>, &scalar_fp32, &scalar_bf16, 0, kNever};
    return kernels;
}

}  // namespace nearfield
