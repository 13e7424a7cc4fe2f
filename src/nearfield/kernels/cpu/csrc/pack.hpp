// From the codes or floats of a checkpoint to the layout that the kernels read (see job.hpp), in parallel.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime.hpp"

namespace nearfield {

// codes int8 [n, k], scales fp32 [n]: one scale a row.
PackedWeights pack_rows(Runtime& runtime, const std::int8_t* codes, const float* scales, std::int64_t n,
                        std::int64_t k);

// codes: int8 [n, k], or for 4 bits unsigned [n, k / 2], the low half of a byte first. scales 16-bit floats
// [n, k / group]. zeros uint8 [n, k / group], for 4 bits only; null: a code of 8 stands for zero.
PackedWeights pack_groups(Runtime& runtime, int bits, const std::uint8_t* codes, const std::uint16_t* scales,
                          Scale scale, const std::uint8_t* zeros, std::int64_t n, std::int64_t k, std::int64_t group);

// matrix [n, k] of fp32, or of bf16.
PackedWeights pack_dense(Runtime& runtime, const float* matrix, std::int64_t n, std::int64_t k);
PackedWeights pack_dense(Runtime& runtime, const std::uint16_t* matrix, std::int64_t n, std::int64_t k);

// Everything but the bytes: n, k, group, codes, scale, zeros. With them and the number of the layout a file
// of packed weights is read without packing anything.
std::vector<std::int64_t> describe(const Weights& weights);

// Weights so described, all their bytes zero, to be filled from such a file.
PackedWeights blank(Runtime& runtime, const std::vector<std::int64_t>& description);

}  // namespace nearfield
