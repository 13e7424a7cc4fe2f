// The linear operation a block of rows at a time, for the instruction sets without int8 dot products.
// `Ops` brings two things: `dot`, exact int32 sums, and `accumulate`, one rounded fma an output.
#pragma once

#include <cstdint>
#include <cstring>

#include "job.hpp"
#include "scales.hpp"

namespace nearfield {
namespace {

// A group of a block, made plain: codes [columns / 4][16][4], scales and zero points a row.
struct Group {
    const std::uint8_t* codes;
    float scales[kRows];
    std::int32_t zeros[kRows];
};

inline void expand_nibbles(const std::uint8_t* from, std::int64_t columns, std::uint8_t* to) {
    for (std::int64_t k = 0; k < columns; k += 8, from += 64, to += 128) {
        for (int j = 0; j < 64; ++j) {
            to[j] = from[j] & 15;
            to[64 + j] = from[j] >> 4;
        }
    }
}

inline void open_group(const Weights& w, const std::uint8_t* block, std::int64_t g, std::uint8_t* scratch,
                       Group& group) {
    if (scaled_by_row(w)) {
        group.codes = block;
        std::memcpy(group.scales, block + code_bytes(w), sizeof group.scales);
        return;
    }
    const std::uint8_t* pair = block + static_cast<std::size_t>(g / 2) * pair_bytes(w);
    const std::uint8_t* codes = pair + static_cast<std::size_t>(g % 2) * code_bytes(w);
    const bool alone = g % 2 == 0 && g + 1 == groups_of(w);
    const std::uint8_t* tail = pair + (alone ? 1 : 2) * code_bytes(w) + (g % 2) * 32;
    for (int r = 0; r < kRows; ++r) {
        std::uint16_t half, zero = 0;
        std::memcpy(&half, tail + 2 * r, sizeof half);
        if (w.zeros) std::memcpy(&zero, tail + 64 + 2 * r, sizeof zero);
        group.scales[r] = w.scale == Scale::f16 ? float_of_f16(half) : float_of_bf16(half);
        group.zeros[r] = zero;
    }
    group.codes = codes;
    if (w.codes == Codes::int4) {
        expand_nibbles(codes, w.group, scratch);
        group.codes = scratch;
    }
}

// Adds one group's share to the sums [16] of one token.
template <class Ops>
inline void add_group(const LinearJob& job, const Group& group, std::int64_t g, std::int64_t token, float* sums) {
    const Acts& acts = job.acts;
    const std::int64_t panel = token / acts.width, place = token % acts.width;
    const std::int64_t at = (panel * groups_of(job.weights) + g) * acts.width + place;
    const std::int8_t* codes = acts.codes + (panel * acts.k + g * acts.group) * acts.width + place * 4;
    std::int32_t dots[kRows];
    Ops::dot(group.codes, codes, acts.group / 4, acts.width * 4, dots);
    for (int r = 0; r < kRows; ++r) {
        const std::int32_t offset = job.weights.zeros ? group.zeros[r] * acts.offsets[at] : acts.offsets[at];
        dots[r] = static_cast<std::int32_t>(static_cast<std::uint32_t>(dots[r]) + static_cast<std::uint32_t>(offset));
    }
    Ops::accumulate(dots, group.scales, acts.scales[at], sums);
}

inline void store(const LinearJob& job, std::int64_t row, std::int64_t token, const float* sums) {
    const std::int64_t rows = job.weights.n - row < kRows ? job.weights.n - row : kRows;
    float* y = job.y + token * job.y_stride + row;
    for (std::int64_t r = 0; r < rows; ++r) {
        const float value = job.bias ? sums[r] + job.bias[row + r] : sums[r];
        y[r] = job.residual ? value + job.residual[token * job.residual_stride + row + r] : value;
    }
}

template <class Ops>
void linear_blockwise(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    const Weights& w = job.weights;
    float* sums = reinterpret_cast<float*>(scratch);
    std::uint8_t* bytes = scratch + sizeof(float) * kRows * kSlab;
    const std::int64_t tokens = part.token_last - part.token_first;
    for (std::int64_t b = part.block_first; b < part.block_last; ++b) {
        std::memset(sums, 0, sizeof(float) * kRows * static_cast<std::size_t>(tokens));
        for (std::int64_t g = 0; g < groups_of(w); ++g) {
            Group group;
            open_group(w, w.data + static_cast<std::size_t>(b) * w.block_bytes, g, bytes, group);
            for (std::int64_t t = 0; t < tokens; ++t) {
                add_group<Ops>(job, group, g, part.token_first + t, sums + t * kRows);
            }
        }
        for (std::int64_t t = 0; t < tokens; ++t) store(job, b * kRows, part.token_first + t, sums + t * kRows);
    }
}

}  // namespace
}  // namespace nearfield
