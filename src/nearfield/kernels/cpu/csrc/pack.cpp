#include "pack.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace nearfield {
namespace {

constexpr std::int64_t kColumns = 32;         // k is a multiple of it, so that no kernel has a remainder
constexpr std::int64_t kMaxColumns = 131072;  // beyond, 128 x 127 x k would not fit an int32

std::string check_some(std::int64_t n, std::int64_t k) {
    const std::string shape = "weights [" + std::to_string(n) + ", " + std::to_string(k) + "]";
    if (n < 1 || k < 1) throw std::invalid_argument(shape + " are empty");
    return shape;
}

void check_shape(std::int64_t n, std::int64_t k, std::int64_t multiple) {
    const std::string shape = check_some(n, k);
    if (k > kMaxColumns) {
        throw std::invalid_argument(shape + " have more columns than int32 sums can hold, " +
                                    std::to_string(kMaxColumns));
    }
    if (k % multiple) {
        throw std::invalid_argument(shape + ": the columns must be a multiple of " + std::to_string(multiple) +
                                    ", the group; choose another group or format, or keep this matrix dense");
    }
}

bool finite(float scale) { return std::isfinite(scale); }

bool finite16(std::uint16_t scale, Scale kind) {
    const std::uint16_t exponent = kind == Scale::f16 ? 0x7c00 : 0x7f80;
    return (scale & exponent) != exponent;
}

// Remembers, from any thread, that something was wrong; the first row is named.
class Fault {
public:
    void at(std::int64_t row) {
        std::int64_t first = row_.load();
        while (row < first && !row_.compare_exchange_weak(first, row)) {
        }
    }

    void raise(const std::string& what) const {
        if (row_.load() != kNone) throw std::invalid_argument("row " + std::to_string(row_.load()) + " of the weights has " + what);
    }

private:
    static constexpr std::int64_t kNone = INT64_MAX;
    std::atomic<std::int64_t> row_{kNone};
};

void put_bytes(const std::int8_t* codes, std::int64_t columns, std::uint8_t* to) {
    for (std::int64_t q = 0; q < columns / 4; ++q) {
        for (int j = 0; j < 4; ++j) to[q * 64 + j] = static_cast<std::uint8_t>(codes[q * 4 + j] + 128);
    }
}

// Four nibbles, lowest first, to the low halves of four bytes.
std::uint32_t spread(std::uint32_t nibbles) {
    nibbles = (nibbles | nibbles << 8) & 0x00ff00ffu;
    return (nibbles | nibbles << 4) & 0x0f0f0f0fu;
}

void put_nibbles(const std::uint8_t* codes, std::int64_t columns, std::uint8_t* to) {
    for (std::int64_t i = 0; i < columns / 8; ++i, codes += 4) {
        const std::uint32_t low = codes[0] | static_cast<std::uint32_t>(codes[1]) << 8;
        const std::uint32_t high = codes[2] | static_cast<std::uint32_t>(codes[3]) << 8;
        const std::uint32_t both = spread(low) | spread(high) << 4;
        for (int j = 0; j < 4; ++j) to[i * 64 + j] = static_cast<std::uint8_t>(both >> 8 * j);
    }
}

void put16(std::uint16_t value, std::uint8_t* to) { std::memcpy(to, &value, sizeof value); }

std::size_t block_bytes(const Weights& w) {
    const std::size_t columns = static_cast<std::size_t>(w.k), line = 4 * kRows;
    if (w.codes == Codes::fp32) return columns * line;
    if (w.codes == Codes::bf16) return (columns + 2 * kTileLines - 1) / (2 * kTileLines) * kTileLines * line;
    if (scaled_by_row(w)) return columns / 4 * line + kRows * sizeof(float);
    const std::size_t codes = code_bytes(w), tail = pair_bytes(w) - 2 * codes;
    const std::size_t groups = static_cast<std::size_t>(groups_of(w));
    return groups * codes + (groups + 1) / 2 * tail;
}

void check_kind(const Weights& w) {
    if (scaled_by_row(w)) {
        if (w.codes == Codes::int4 || w.zeros || w.group != w.k) {
            throw std::invalid_argument("4-bit weights and weights with zero points have scales for groups of columns");
        }
        return;
    }
    if (w.group != 32 && w.group != 64 && w.group != 128) {
        throw std::invalid_argument("group " + std::to_string(w.group) + " is not 32, 64 or 128");
    }
    if (w.codes != Codes::int4 && (w.codes != Codes::int8 || w.zeros)) {
        throw std::invalid_argument("groups have 16-bit scales, 4 or 8 bits, and zero points with 4 bits only");
    }
}

// Memory for weights of which all but data and block_bytes is known, all zeros. Throws std::invalid_argument.
PackedWeights room_for(Runtime& runtime, Weights w) {
    check_some(w.n, w.k);
    check_kind(w);
    if (!is_dense(w)) check_shape(w.n, w.k, scaled_by_row(w) ? kColumns : w.group);
    w.block_bytes = block_bytes(w);
    Piece memory = runtime.arena().take(w.block_bytes * static_cast<std::size_t>(blocks_of(w)));
    w.data = memory.get();
    return {w, memory};
}

struct Source {
    const std::uint8_t* codes;
    const std::uint16_t* scales;
    const std::uint8_t* zeros;
};

// Row `row` into its place in its block.
void put_row(const Weights& w, const Source& from, std::int64_t row, std::uint8_t* block, Fault& scale_fault,
             Fault& zero_fault) {
    const std::int64_t groups = groups_of(w), r = row % kRows;
    const std::size_t bytes = code_bytes(w), source_bytes = bytes / kRows;
    for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t at = row * groups + g;
        const bool second = g % 2, alone = !second && g + 1 == groups;
        std::uint8_t* pair = block + static_cast<std::size_t>(g / 2) * pair_bytes(w);
        std::uint8_t* codes = pair + (second ? bytes : 0) + 4 * r;
        std::uint8_t* tail = pair + (alone ? 1 : 2) * bytes + (second ? 32 : 0) + 2 * r;
        const std::uint8_t* source = from.codes + static_cast<std::size_t>(at) * source_bytes;
        if (w.codes == Codes::int4) {
            put_nibbles(source, w.group, codes);
        } else {
            put_bytes(reinterpret_cast<const std::int8_t*>(source), w.group, codes);
        }
        if (!finite16(from.scales[at], w.scale)) scale_fault.at(row);
        put16(from.scales[at], tail);
        if (w.zeros) {
            if (from.zeros[at] > 15) zero_fault.at(row);
            put16(from.zeros[at], tail + 64);
        }
    }
}

// A block of a dense matrix, `Columns` to a line, the first in the upper part of a word. What it lacks of rows and
// columns stays zero.
template <class T, std::int64_t Columns>
void put_block(const T* rows, std::int64_t count, std::int64_t k, T* block) {
    for (std::int64_t column = 0; column < k; ++column) {
        T* to = block + column / Columns * Columns * kRows + (Columns - 1 - column % Columns);
        for (std::int64_t r = 0; r < count; ++r) to[r * Columns] = rows[r * k + column];
    }
}

template <class T, std::int64_t Columns>
PackedWeights pack_matrix(Runtime& runtime, Codes codes, const T* matrix, std::int64_t n, std::int64_t k) {
    const PackedWeights made = room_for(runtime, {nullptr, n, k, k, codes, Scale::f32, false, 0});
    const Weights& w = made.view;
    runtime.pool().share(blocks_of(w), [&](std::int64_t b, int) {
        T* block = reinterpret_cast<T*>(made.memory.get() + static_cast<std::size_t>(b) * w.block_bytes);
        put_block<T, Columns>(matrix + b * kRows * k, std::min<std::int64_t>(kRows, n - b * kRows), k, block);
    });
    return made;
}

}  // namespace

PackedWeights pack_dense(Runtime& runtime, const float* matrix, std::int64_t n, std::int64_t k) {
    return pack_matrix<float, 1>(runtime, Codes::fp32, matrix, n, k);
}

PackedWeights pack_dense(Runtime& runtime, const std::uint16_t* matrix, std::int64_t n, std::int64_t k) {
    return pack_matrix<std::uint16_t, 2>(runtime, Codes::bf16, matrix, n, k);
}

PackedWeights pack_rows(Runtime& runtime, const std::int8_t* codes, const float* scales, std::int64_t n,
                        std::int64_t k) {
    const PackedWeights made = room_for(runtime, {nullptr, n, k, k, Codes::int8, Scale::f32, false, 0});
    const Weights& w = made.view;
    Fault fault;
    runtime.pool().share(blocks_of(w), [&](std::int64_t b, int) {
        std::uint8_t* block = made.memory.get() + static_cast<std::size_t>(b) * w.block_bytes;
        for (std::int64_t row = b * kRows; row < n && row < (b + 1) * kRows; ++row) {
            put_bytes(codes + row * k, k, block + 4 * (row % kRows));
            std::memcpy(block + w.block_bytes - 64 + 4 * (row % kRows), scales + row, sizeof(float));
            if (!finite(scales[row])) fault.at(row);
        }
    });
    fault.raise("a scale that is not finite");
    return made;
}

PackedWeights pack_groups(Runtime& runtime, int bits, const std::uint8_t* codes, const std::uint16_t* scales,
                          Scale scale, const std::uint8_t* zeros, std::int64_t n, std::int64_t k,
                          std::int64_t group) {
    if (bits != 4 && bits != 8) throw std::invalid_argument("codes have 4 or 8 bits, not " + std::to_string(bits));
    const PackedWeights made = room_for(
        runtime, {nullptr, n, k, group, static_cast<Codes>(bits), scale, zeros != nullptr, 0});
    const Weights& w = made.view;
    Fault scale_fault, zero_fault;
    runtime.pool().share(blocks_of(w), [&](std::int64_t b, int) {
        std::uint8_t* block = made.memory.get() + static_cast<std::size_t>(b) * w.block_bytes;
        for (std::int64_t row = b * kRows; row < n && row < (b + 1) * kRows; ++row) {
            put_row(w, {codes, scales, zeros}, row, block, scale_fault, zero_fault);
        }
    });
    scale_fault.raise("a scale that is not finite");
    zero_fault.raise("a zero point above 15");
    return made;
}

std::vector<std::int64_t> describe(const Weights& w) {
    return {w.n, w.k, w.group, static_cast<std::int64_t>(w.codes), static_cast<std::int64_t>(w.scale), w.zeros};
}

PackedWeights blank(Runtime& runtime, const std::vector<std::int64_t>& description) {
    constexpr std::int64_t most[] = {1 << 28, 1 << 28, 1 << 28, 32, 2, 1};  // bytes stay countable
    bool whole = description.size() == 6;
    for (std::size_t i = 0; whole && i < 6; ++i) whole = description[i] >= 0 && description[i] <= most[i];
    const std::int64_t bits = whole ? description[3] : 0;
    if (bits != 4 && bits != 8 && bits != 16 && bits != 32) {
        throw std::invalid_argument("this does not describe packed weights");
    }
    return room_for(runtime, {nullptr, description[0], description[1], description[2], static_cast<Codes>(bits),
                              static_cast<Scale>(description[4]), description[5] == 1, 0});
}

}  // namespace nearfield
