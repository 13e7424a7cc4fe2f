// Dense weights, activations and outputs exactly as long as may be touched: through the runtime, and through a
// table of kernels alone, which reaches those that this processor would not choose.
#pragma once

#include <algorithm>
#include <cstring>

#include "dense.hpp"
#include "embed.hpp"
#include "pack.hpp"
#include "random.hpp"

using namespace nearfield;

namespace {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(float)));
}

struct DenseCase {
    std::int64_t n, k, m;
    Codes codes;
    bool biased, added;
    std::vector<float> matrix, x, bias, residual;
    std::vector<std::uint16_t> halves;

    explicit DenseCase(Random& random) {
        const std::int64_t kind = between(random, 0, 5);  // many tokens, long rows, or neither
        n = between(random, 1, kind == 0 ? 20 : 100);
        k = kind == 1 ? between(random, 1000, 1100) : between(random, 1, kind == 0 ? 140 : 300);
        m = kind == 0 ? between(random, 250, 530) : between(random, 1, kind == 1 ? 5 : 20);
        codes = between(random, 0, 1) ? Codes::fp32 : Codes::bf16;
        biased = between(random, 0, 1);
        added = between(random, 0, 1);
        matrix = floats(random, n * k);
        x = floats(random, m * k);
        bias = floats(random, n);
        residual = floats(random, m * n);
        for (float value : matrix) {
            std::uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            halves.push_back(static_cast<std::uint16_t>(bits >> 16));
        }
    }

    PackedWeights packed(Runtime& runtime) const {
        if (codes == Codes::fp32) return pack_dense(runtime, matrix.data(), n, k);
        return pack_dense(runtime, halves.data(), n, k);
    }

    Outputs outputs(std::vector<float>& y) const {
        return {biased ? bias.data() : nullptr, added ? residual.data() : nullptr, n, y.data(), n};
    }

    std::vector<float> run(Runtime& runtime) const {
        const PackedWeights weights = packed(runtime);
        std::vector<float> y(static_cast<std::size_t>(m * n));
        const Outputs out = outputs(y);
        runtime.linear({&weights.view, x.data(), m, k, {}, out.bias, out.residual, n, out.y, n});
        return y;
    }

    // The tables for these weights that the runtime's processor can run.
    std::vector<const DenseKernels*> kernels(const Runtime& runtime) const {
        std::vector<const DenseKernels*> found{&dense_kernels(runtime.kernels(), codes)};
#ifdef NEARFIELD_X86
        if (codes == Codes::bf16 && !std::strcmp(runtime.isa(), "avx512")) found.push_back(&avx512_bf16);
#endif
        return found;
    }

    std::vector<float> run_alone(const DenseKernels& table) const {
        Runtime plain(1, "scalar");
        const PackedWeights weights = packed(plain);
        const std::int64_t words = words_of(weights.view, table);
        const int width = m == 1 ? 1 : table.panel;
        std::vector<float> panels(static_cast<std::size_t>((m + width - 1) / width * width * words));
        const Piece scratch = plain.arena().take(kScratch);
        std::vector<float> y(static_cast<std::size_t>(m * n));
        const DenseJob job{weights.view, {panels.data(), m, k, words, width}, outputs(y)};
        table.pack({x.data(), k, job.panels}, 0, m);
        for (std::int64_t token = 0; token < m; token += kDenseSlab) {
            const Part part{0, blocks_of(weights.view), token, std::min(m, token + kDenseSlab)};
            table.multiply(job, part, scratch.get());
        }
        return y;
    }

    // Whether looking rows up gives what was packed.
    bool finds_rows(Runtime& runtime) const {
        const PackedWeights table = packed(runtime);
        std::vector<std::int64_t> tokens;
        for (std::int64_t row = n - 1; row >= 0; --row) tokens.push_back(row);
        std::vector<float> y(static_cast<std::size_t>(n * k));
        embed(runtime, table.view, tokens.data(), n, y.data());
        for (std::int64_t i = 0; i < n * k; ++i) {
            const std::size_t from = static_cast<std::size_t>((n - 1 - i / k) * k + i % k);
            std::uint32_t bits;
            std::memcpy(&bits, &matrix[from], sizeof bits);
            if (codes == Codes::bf16) bits &= 0xffff0000u;
            if (std::memcmp(&bits, &y[static_cast<std::size_t>(i)], sizeof bits)) return false;
        }
        return true;
    }
};

}  // namespace
