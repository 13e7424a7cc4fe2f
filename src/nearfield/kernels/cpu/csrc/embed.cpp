#include "embed.hpp"

#include <algorithm>
#include <stdexcept>

#include "scales.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kSmallEmbed = 8192;  // floats that one thread gathers in about a dispatch
constexpr std::size_t kLine = 64;

template <class T>
T value_at(const std::uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Row r of a block, whose lines of 64 bytes hold `Columns` columns each. `Flip` changes their places in a word.
template <std::size_t Columns, std::size_t Flip, class Value>
void gather(const std::uint8_t* block, std::size_t r, std::size_t k, float* y, const Value& value) {
    constexpr std::size_t bytes = kLine / kRows / Columns;
    for (std::size_t column = 0; column < k; ++column) {
        const std::size_t place = r * Columns + (column % Columns ^ Flip);
        y[column] = value(block + column / Columns * kLine + place * bytes);
    }
}

void row(const Weights& w, const std::uint8_t* block, std::size_t r, float* y) {
    const std::size_t k = static_cast<std::size_t>(w.k);
    const auto widened = [](const std::uint8_t* at) { return float_of_bf16(value_at<std::uint16_t>(at)); };
    if (w.codes == Codes::fp32) return gather<1, 0>(block, r, k, y, value_at<float>);
    if (w.codes == Codes::bf16) return gather<2, 1>(block, r, k, y, widened);
    const float scale = value_at<float>(block + w.block_bytes - kLine + r * sizeof(float));
    const auto scaled = [scale](const std::uint8_t* at) { return static_cast<float>(*at - 128) * scale; };
    gather<4, 0>(block, r, k, y, scaled);
}

}  // namespace

void embed(Runtime& runtime, const Weights& table, const std::int64_t* tokens, std::int64_t count, float* y) {
    if (!scaled_by_row(table)) {
        throw std::invalid_argument("a table of tokens can not have scales for groups of columns; pack it as floats, "
                                    "or as int8 with one scale a row");
    }
    for (std::int64_t t = 0; t < count; ++t) {
        if (tokens[t] < 0 || tokens[t] >= table.n) {
            throw std::out_of_range("token " + std::to_string(tokens[t]) + " is not in a table of " +
                                    std::to_string(table.n) + " rows");
        }
    }
    const std::int64_t each = std::max<std::int64_t>(1, kSmallEmbed / table.k);
    runtime.pool().share((count + each - 1) / each, [&](std::int64_t task, int) {
        for (std::int64_t t = task * each; t < std::min(count, (task + 1) * each); ++t) {
            const std::size_t token = static_cast<std::size_t>(tokens[t]);
            row(table, table.data + token / kRows * table.block_bytes, token % kRows, y + t * table.k);
        }
    });
}

}  // namespace nearfield
