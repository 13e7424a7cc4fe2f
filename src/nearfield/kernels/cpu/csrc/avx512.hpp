// What the AVX-512 kernels share. Included by their translation units only, and all of it local to each.
#pragma once

#include <immintrin.h>

#include "job.hpp"

namespace nearfield {

void avx512_quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last);
void avx512_linear_rows(const LinearJob& job, const Part& part, std::uint8_t* scratch);
void avx512_linear_groups(const LinearJob& job, const Part& part, std::uint8_t* scratch);

namespace {

// How far ahead weights are asked for where tokens are few, in bytes: to the L2 cache.
constexpr std::size_t kAhead = 16 << 10;

// Tokens up to which blocks come in pairs: there are registers for their sums.
constexpr std::int64_t kPairs = 12;

// From byte `at` of a block to what is to be asked for then. A processor fetches two streams faster than one, so blocks
// are taken by twos: what comes after the end of one lies beyond the other.
inline std::size_t to_ask(const Weights& w, std::size_t at, int together) {
    return kAhead + (at + kAhead >= w.block_bytes ? static_cast<std::size_t>(together - 1) * w.block_bytes : 0);
}

// Blocks from one pair to the next. Gated, a pair is a block of gates and the block of what they gate.
inline int across(const LinearJob& job) { return job.gated ? 1 : 2; }

// Blocks from the first of a pair to the second.
inline std::int64_t to_second(const LinearJob& job) { return job.gated ? blocks_of(job.weights) / 2 : 1; }

// The compiler's intrinsic lets GCC 12 copy accumulators about once it has 24 of them; this does not.
inline void dot(__m512i& sum, __m512i weights, __m512i acts) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(acts));
}

// The same with four activation codes read from memory and repeated.
inline void dot(__m512i& sum, __m512i weights, const std::int8_t* acts) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(weights), "m"(*reinterpret_cast<const std::int32_t(*)>(acts)));
}

inline __m512i repeat(const std::int8_t* acts) {
    return _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(acts));
}

inline __m512i load(const std::uint8_t* data) { return _mm512_load_si512(data); }

// A block's rows, as far as there are any.
inline __mmask16 rows_from(const LinearJob& job, std::int64_t row) {
    const std::int64_t rows = job.weights.n - row;
    return rows >= kRows ? 0xffff : static_cast<__mmask16>((1u << rows) - 1);
}

// `kept` rows of y.
inline void put(const LinearJob& job, float* y, __mmask16 kept, __m512 values) {
    if (job.past) return _mm512_stream_ps(y, values);
    _mm512_mask_storeu_ps(y, kept, values);
}

// y[row ...] = sums + bias + residual.
inline void store(const LinearJob& job, std::int64_t row, std::int64_t token, __m512 sums) {
    const __mmask16 mask = rows_from(job, row);
    if (job.bias) sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask, job.bias + row));
    if (job.residual) {
        const float* residual = job.residual + token * job.residual_stride + row;
        sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask, residual));
    }
    put(job, job.y + token * job.y_stride + row, mask, sums);
}

// A stream of weights to ask for while computing, `step` bytes at a time.
struct Ahead {
    const std::uint8_t* next;
    const std::uint8_t* end;
    std::size_t step;

    void ask() {
        if (next >= end) return;
        for (const std::uint8_t* stop = next + step; next < stop; next += 64) __builtin_prefetch(next, 0, 2);
    }
};

// The `count` blocks after these, asked for evenly over the work on these: once for 16 columns of two panels.
inline Ahead next_blocks(const Weights& w, std::int64_t block, int count, const Part& part) {
    const std::uint8_t* next = w.data + static_cast<std::size_t>(block + count) * w.block_bytes;
    const std::size_t bytes = static_cast<std::size_t>(count) * w.block_bytes;
    const std::size_t panels = static_cast<std::size_t>(part.token_last - part.token_first + kPanel - 1) / kPanel;
    const std::size_t asks = (panels + 1) / 2 * static_cast<std::size_t>(w.k) / kRows;
    return {next, next + bytes, (bytes / asks + 63) / 64 * 64};
}

// Asks for the places in y that two panels will soon be written to.
inline void expect_rows(const LinearJob& job, std::int64_t row, std::int64_t token, int blocks) {
    for (std::int64_t t = token; t < token + 2 * kPanel && t < job.acts.m; ++t) {
        for (int r = 0; r < blocks; ++r) __builtin_prefetch(job.y + t * job.y_stride + row + r * kRows, 1, 3);
    }
}

inline const std::int8_t* panel_codes(const Acts& acts, std::int64_t token) { return acts.codes + token * acts.k; }

}  // namespace
}  // namespace nearfield
