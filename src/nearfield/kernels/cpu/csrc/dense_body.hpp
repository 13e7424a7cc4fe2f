// Dense weights times activations, over any Vec and any `Product`: how a line of weights, a token's words for
// it and their products look. `Sizes` says what sums the registers hold: kStreams blocks for one token, kBlocks by
// kPanels for many, and one block by up to four panels if kFew.
// Every sum is taken in order of the lines, whatever the tile, so the bits depend on none of it.
#pragma once

#include "dense.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kPiece = 512;  // columns that are converted before they are laid side by side
constexpr std::int64_t kDepth = 128;  // lines of a block that stay in the first cache, tile after tile
constexpr std::int64_t kSlow = 8;     // reads for each ask, where tokens are many
constexpr std::size_t kAskAhead = 16 << 10;  // bytes that a stream of weights is asked for ahead

inline std::int64_t least_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// fp32: a line is a column, and a word its activation.
struct Plain {
    static constexpr int kColumns = 1, kWords = 1;
    using Row = Vec;
    using Act = Vec;

    static void convert(const float* x, std::int64_t columns, float* words) {
        for (std::int64_t i = 0; i < columns; i += 16) store(words + i, load(x + i, columns - i));
    }
    static Row row(const std::uint8_t* line) { return load(reinterpret_cast<const float*>(line)); }
    static Act act(const float* words, int) { return all(*words); }
    static void add(Vec& sum, const Row& row, const Act& act) { accumulate(sum, row, act); }
};

// bf16 made fp32: a line is two columns, and their activations are two words.
struct Widened {
    static constexpr int kColumns = 2, kWords = 2;
    struct Row {
        Vec even, odd;
    };
    using Act = Row;

    static void convert(const float* x, std::int64_t columns, float* words) {
        for (std::int64_t i = 0; i < columns; i += 16) {
            std::uint16_t halves[16];
            store(halves, load(x + i, columns - i));
            store(words + i, load(halves));
        }
    }
    static Row row(const std::uint8_t* line) {
        Row pair;
        load_halves(reinterpret_cast<const std::uint16_t*>(line), pair.even, pair.odd);
        return pair;
    }
    static Act act(const float* words, int width) { return {all(words[0]), all(words[width])}; }
    static void add(Vec& sum, const Row& row, const Act& act) {
        accumulate(sum, row.even, act.even);
        accumulate(sum, row.odd, act.odd);
    }
};

// One panel, a piece of its columns at a time.
template <class Product>
inline void pack_panel(const PackJob& job, std::int64_t token) {
    const Panels& panels = job.panels;
    const int width = panels.width;
    const std::int64_t tokens = least_of(width, panels.m - token);
    float* out = panels.data + token * panels.words;
    for (std::int64_t column = 0; column < panels.k; column += kPiece) {
        const std::int64_t columns = least_of(kPiece, panels.k - column);
        const std::int64_t words = (columns + Product::kColumns - 1) / Product::kColumns * Product::kWords;
        float rows[kPanel][kPiece];
        for (std::int64_t t = 0; t < tokens; ++t) {
            Product::convert(job.x + (token + t) * job.stride + column, columns, rows[t]);
        }
        for (std::int64_t t = tokens; t < width; ++t) __builtin_memset(rows[t], 0, sizeof rows[t]);
        if (width == 1) {
            __builtin_memcpy(out, rows[0], static_cast<std::size_t>(words) * sizeof(float));
        } else {
            for (std::int64_t i = 0; i < words; ++i) {
                for (int t = 0; t < kPanel; ++t) out[i * kPanel + t] = rows[t][i];
            }
        }
        out += words * width;
    }
}

template <class Product>
void pack(const PackJob& job, std::int64_t first, std::int64_t last) {
    for (std::int64_t token = first; token < last; token += job.panels.width) pack_panel<Product>(job, token);
}

inline void finish(const DenseJob& job, std::int64_t row, std::int64_t token, Vec sum) {
    const Outputs& out = job.out;
    const std::int64_t rows = job.weights.n - row;
    if (out.bias) sum = sum + load(out.bias + row, rows);
    if (out.residual) sum = sum + load(out.residual + token * out.residual_stride + row, rows);
    store(out.y + token * out.y_stride + row, one_nan(sum), rows);
}

// What a tile multiplies: lines [first, last) of the blocks from `block` on, the tokens from `token` on.
struct Place {
    std::int64_t block, token, first, last;
};

// R blocks by P panels, all sums in registers; `partial` [R][tokens][16] holds those of the lines before and takes
// the new ones. A line of weights at `ahead` is asked for with every Ask-th that is read; 0: none.
template <class Product, int R, int P, int Width, int Ask>
inline void tile(const DenseJob& job, const Place& at, float* partial, const std::uint8_t* ahead) {
    constexpr int T = P * Width;
    const Weights& w = job.weights;
    const std::size_t down = w.block_bytes;
    const std::int64_t right = job.panels.words * Width;
    const std::uint8_t* line = w.data + static_cast<std::size_t>(at.block) * down + at.first * kLine;
    const float* words = job.panels.data + at.token * job.panels.words + at.first * Product::kWords * Width;
    Vec sums[R][T];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) sums[r][t] = at.first ? load(partial + (r * T + t) * kRows) : zeros();
    }
    for (std::int64_t i = at.first; i < at.last; ++i, line += kLine, words += Product::kWords * Width) {
        typename Product::Row rows[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) rows[r] = Product::row(line + r * down);
        if (Ask == 1 || (Ask > 1 && i % Ask == 0)) {
            __builtin_prefetch(ahead, 0, 2);
            ahead += kLine;
        }
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) {
            const typename Product::Act act = Product::act(words + t / Width * right + t % Width, Width);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) Product::add(sums[r][t], rows[r], act);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) store(partial + (r * T + t) * kRows, sums[r][t]);
    }
    if (at.last < lines_of(w)) return;
    for (int t = 0; t < T && at.token + t < job.panels.m; ++t) {
        for (int r = 0; r < R; ++r) {
            finish(job, (at.block + r) * kRows, at.token + t, load(partial + (r * T + t) * kRows));
        }
    }
}

// R blocks and all tokens of the part, kDepth lines at a time. Meanwhile the lines that come next are asked for,
// block after block, over as many of the tiles as there are.
template <class Product, class Sizes, int R>
void many(const DenseJob& job, std::int64_t block, const Part& part, float* scratch) {
    constexpr std::int64_t tokens = Sizes::kPanels * kPanel;
    const std::size_t down = job.weights.block_bytes;
    const std::uint8_t* data = job.weights.data + static_cast<std::size_t>(block) * down;
    const std::int64_t lines = lines_of(job.weights);
    const std::int64_t every = part.token_last - part.token_first >= kSlow * R * tokens ? kSlow : 1;
    for (std::int64_t first = 0; first < lines; first += kDepth) {
        const std::int64_t last = least_of(lines, first + kDepth);
        const std::uint8_t* next = data + (last < lines ? static_cast<std::size_t>(last) * kLine : R * down);
        float* partial = scratch;
        std::int64_t i = 0;
        for (std::int64_t token = part.token_first; token < part.token_last; token += tokens, ++i) {
            const Place at{block, token, first, last};
            const std::uint8_t* ahead = next + i / every * down + i % every * (kDepth / every) * kLine;
            if (part.token_last - token <= kPanel) {
                tile<Product, R, 1, kPanel, 0>(job, at, partial, nullptr);
            } else if (i >= R * every) {
                tile<Product, R, Sizes::kPanels, kPanel, 0>(job, at, partial, nullptr);
            } else if (every == kSlow) {
                tile<Product, R, Sizes::kPanels, kPanel, kSlow>(job, at, partial, ahead);
            } else {
                tile<Product, R, Sizes::kPanels, kPanel, 1>(job, at, partial, ahead);
            }
            partial += tokens * R * kRows;
        }
    }
}

// Few tokens: memory decides. Each stream of weights is read once, and asked for well ahead.
template <class Product, int P>
void few(const DenseJob& job, const Part& part, float* sums) {
    const std::int64_t lines = lines_of(job.weights);
    for (std::int64_t b = part.block_first; b < part.block_last; ++b) {
        const std::uint8_t* block = job.weights.data + static_cast<std::size_t>(b) * job.weights.block_bytes;
        tile<Product, 1, P, kPanel, 1>(job, {b, part.token_first, 0, lines}, sums, block + kAskAhead);
    }
}

// One token: R streams at once, because a single chain of sums would wait for itself.
template <class Product, int R>
void single(const DenseJob& job, const Part& part, float* sums) {
    const std::int64_t lines = lines_of(job.weights);
    std::int64_t b = part.block_first;
    for (; b + R <= part.block_last; b += R) tile<Product, R, 1, 1, 0>(job, {b, 0, 0, lines}, sums, nullptr);
    for (; b < part.block_last; ++b) tile<Product, 1, 1, 1, 0>(job, {b, 0, 0, lines}, sums, nullptr);
}

template <class Product, class Sizes>
void multiply(const DenseJob& job, const Part& part, std::uint8_t* scratch) {
    float* sums = reinterpret_cast<float*>(scratch);
    if (job.panels.width == 1) return single<Product, Sizes::kStreams>(job, part, sums);
    const std::int64_t panels = (part.token_last - part.token_first + kPanel - 1) / kPanel;
    if constexpr (Sizes::kFew) {
        if (panels == 1) return few<Product, 1>(job, part, sums);
        if (panels == 2) return few<Product, 2>(job, part, sums);
        if (panels == 3) return few<Product, 3>(job, part, sums);
        if (panels == 4) return few<Product, 4>(job, part, sums);
    }
    std::int64_t block = part.block_first;
    for (; block + Sizes::kBlocks <= part.block_last; block += Sizes::kBlocks) {
        many<Product, Sizes, Sizes::kBlocks>(job, block, part, sums);
    }
    for (; block < part.block_last; ++block) many<Product, Sizes, 1>(job, block, part, sums);
}

}  // namespace
}  // namespace nearfield
