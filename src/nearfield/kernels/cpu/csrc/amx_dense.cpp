// Dense bf16 weights on AMX, for any number of tokens: a tile is 16 tokens by 32 columns times 32 columns by 16
// rows. The instruction sums the even and the odd columns of a tile apart, each by fused multiply-adds over
// ascending columns from 0, and adds both to the sum before; it takes subnormals for zero. So the arithmetic is
// its own, and has a profile of its own; tiles of fewer tokens give the same bits.
#include "vec_avx512.hpp"

#include "amx.hpp"
#include "dense.hpp"
#include "kernels.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kLinesAhead = 8 << 10;  // bytes that weights are asked for ahead, where tokens are few
constexpr std::int64_t kTileBytes = 16 * kLine;

// Activations [token][word], a word being two columns in the order of the weights: the first in the upper half.
void pack(const PackJob& job, std::int64_t first, std::int64_t last) {
    const Panels& panels = job.panels;
    for (std::int64_t token = first; token < last; ++token) {
        const float* x = job.x + token * job.stride;
        float* words = panels.data + token * panels.words;
        for (std::int64_t i = 0; i < panels.words * 2; i += 16) {
            const __m256i halves = narrow(load(x + i, panels.k > i ? panels.k - i : 0));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i / 2), _mm256_rol_epi32(halves, 16));
        }
    }
}

struct Space {
    alignas(64) float sums[2][2][kTileTokens][kRows];  // by tile of tokens, then block
};

void finish(const DenseJob& job, std::int64_t block, int blocks, std::int64_t token, std::int64_t tokens,
            const float (&sums)[2][kTileTokens][kRows]) {
    const Outputs& out = job.out;
    for (int r = 0; r < blocks; ++r) {
        const std::int64_t row = (block + r) * kRows, rows = job.weights.n - row;
        const Vec bias = out.bias ? load(out.bias + row, rows) : all(-0.0f);  // x + -0 is x
        for (std::int64_t t = 0; t < tokens; ++t) {
            Vec sum = load(sums[r][t]) + bias;
            if (out.residual) sum = sum + load(out.residual + (token + t) * out.residual_stride + row, rows);
            store(out.y + (token + t) * out.y_stride + row, one_nan(sum), rows);
        }
    }
}

// Two blocks by one tile of tokens, or by two.
template <int T>
void step(const DenseJob& job, const std::uint8_t* first, const std::uint8_t* second, std::int64_t token, bool few, Space& space) {
    const std::int64_t words = job.panels.words, stride = words * static_cast<std::int64_t>(sizeof(float));
    const float* acts = job.panels.data + token * words;
    _tile_zero(0);
    _tile_zero(1);
    if (T == 2) _tile_zero(2);
    if (T == 2) _tile_zero(3);
    for (std::int64_t word = 0; word < words; word += 16, first += kTileBytes, second += kTileBytes) {
        if (few) {
            for (std::int64_t line = 0; line < kTileBytes; line += kLine) {
                __builtin_prefetch(first + kLinesAhead + line, 0, 2);
                __builtin_prefetch(second + kLinesAhead + line, 0, 2);
            }
        }
        _tile_loadd(4, acts + word, stride);
        _tile_loadd(6, first, kLine);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, second, kLine);
        _tile_dpbf16ps(1, 4, 7);
        if (T == 2) {
            _tile_loadd(5, acts + kTileTokens * words + word, stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, space.sums[0][0], kLine);
    _tile_stored(1, space.sums[0][1], kLine);
    if (T == 2) _tile_stored(2, space.sums[1][0], kLine);
    if (T == 2) _tile_stored(3, space.sums[1][1], kLine);
}

void multiply(const DenseJob& job, const Part& part, std::uint8_t* scratch) {
    Space& space = *reinterpret_cast<Space*>(scratch);
    const std::int64_t tokens = part.token_last - part.token_first, whole = tokens / kTileTokens * kTileTokens;
    for (std::int64_t block = part.block_first; block < part.block_last; block += 2) {
        const int blocks = part.block_last - block < 2 ? 1 : 2;
        const std::uint8_t* first = job.weights.data + static_cast<std::size_t>(block) * job.weights.block_bytes;
        const std::uint8_t* second = first + (blocks == 2 ? job.weights.block_bytes : 0);
        std::int64_t t = 0;
        if (whole > 0) configure(kTileTokens);
        for (; t + 2 * kTileTokens <= whole; t += 2 * kTileTokens) {
            const std::int64_t token = part.token_first + t;
            step<2>(job, first, second, token, false, space);
            finish(job, block, blocks, token, kTileTokens, space.sums[0]);
            finish(job, block, blocks, token + kTileTokens, kTileTokens, space.sums[1]);
        }
        for (; t < tokens; t += kTileTokens) {
            const std::int64_t token = part.token_first + t, here = tokens - t < kTileTokens ? tokens - t : kTileTokens;
            if (here < kTileTokens) configure(static_cast<int>(here));
            step<1>(job, first, second, token, tokens <= kTileTokens, space);
            finish(job, block, blocks, token, here, space.sums[0]);
        }
    }
    _tile_release();
}

}  // namespace

const DenseKernels amx_bf16 = {"bf16-amx", 1, 1, pack, multiply};

double amx_mac_bf16(std::int64_t rounds) {
    configure(kTileTokens);
    for (std::int64_t i = 0; i < rounds; ++i) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return static_cast<double>(rounds) * 4 * kTileTokens * kRows * (kTileColumns / 2);
}

}  // namespace nearfield
