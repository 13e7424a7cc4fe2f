// The plain structures that the instruction sets' kernels and their callers share. Only data and
// trivial functions: this header is compiled under every instruction set's flags, and a function that
// the linker might keep in its AVX-512 form would crash an older machine. Hence all are `static`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.hpp"
#include "floats.hpp"

namespace nearfield {

constexpr int kRows = 16;       // output rows of a block, which is one stream of memory
constexpr int kTileColumns = 64, kTileTokens = 16, kTileLines = 16;  // of AMX
constexpr int kPanel = 4;       // tokens whose activations lie interleaved, when there are several
constexpr int kMaxGroup = 128;  // the longest group of columns with scales of its own
constexpr std::int64_t kSlab = 128;       // tokens of a task at most: their sums wait in the scratch memory
constexpr std::int64_t kTiledSlab = 512;  // the same where tiles make weights the slower part
constexpr std::int64_t kDenseSlab = 256;  // the same for dense weights
constexpr std::size_t kScratch = 128 << 10;  // bytes of scratch memory of each thread

constexpr std::int64_t kNever = INT64_MAX;

// What a weight is stored as; the number is its bits.
enum class Codes : int { int4 = 4, int8 = 8, bf16 = 16, fp32 = 32 };

enum class Scale : int { f32 = 0, f16 = 1, bf16 = 2 };

// Weights [n, k] as they lie in memory: ceil(n / 16) blocks of 16 rows, each of `block_bytes`.
// 8 bits, one scale a row: for each 4 columns 16 x 4 codes (code + 128), then 16 fp32 scales.
// In groups: for each two groups their codes, then 2 x 16 scales of 16 bits, then, where there are
// zero points, 2 x 16 of them in 16 bits. 8-bit codes as above. 4-bit codes: for each 8 columns
// 16 x 4 bytes, in which the low half of byte j is column j and the high half column j + 4.
// Dense: no scales, group == k. fp32: for each column 16 floats. bf16: for each 2 columns 16 words of 32 bits, the
// first column in the upper half, where vdpbf16ps begins; zeros fill k up to 32 columns, a tile of AMX.
// kLayout is the number of this layout, by which a file of packed weights tells whether it can be read:
// it changes with the layout.
constexpr int kLayout = 1;

struct Weights {
    const std::uint8_t* data;
    std::int64_t n, k, group;
    Codes codes;
    Scale scale;  // f32: one a row, and then group == k
    bool zeros;
    std::size_t block_bytes;
};

// Quantised activations of m tokens in panels of `width` (4, or 1 for a single token):
// codes [panel][k / 4][width][4], scales and offsets [panel][group][width].
// offsets hold -(what a code of zero stands for) x (sum of the group's codes); with zero points, -sum.
struct Acts {
    std::int8_t* codes;
    float* scales;
    std::int32_t* offsets;
    std::int64_t m, k, group;
    int width;
};

// Quantise tokens [first, last) of x [m, k] (row stride in floats) into `acts`.
struct QuantizeJob {
    const float* x;
    std::int64_t stride;
    Acts acts;
    std::int32_t zero;  // what offsets multiply the sums by, negated
};

// y [m, n] = (acts x weights^T + bias) + residual. Or, `gated`, y [m, n / 2] = silu(first half) * second half of
// acts x weights^T + bias: n is then a multiple of two blocks, and parts are of the first half's. `past`: y begins on a
// line and has whole ones, and more of them than caches keep; what it overwrites need not be fetched.
struct LinearJob {
    Weights weights;
    Acts acts;
    const float* bias;      // [n] or null
    const float* residual;  // [m, n] or null
    std::int64_t residual_stride;
    float* y;
    std::int64_t y_stride;
    bool gated, past;
};

struct Part {
    std::int64_t block_first, block_last;
    std::int64_t token_first, token_last;  // token_first is a multiple of kPanel
};

static inline bool is_dense(const Weights& w) { return w.codes == Codes::bf16 || w.codes == Codes::fp32; }

static inline std::int64_t blocks_of(const Weights& w) { return (w.n + kRows - 1) / kRows; }

static inline bool scaled_by_row(const Weights& w) { return w.scale == Scale::f32; }

static inline std::int64_t groups_of(const Weights& w) { return w.k / w.group; }

// Bytes of one group's codes in a block.
static inline std::size_t code_bytes(const Weights& w) {
    return static_cast<std::size_t>(w.group) * kRows * static_cast<std::size_t>(w.codes) / 8;
}

// Bytes of two groups with what belongs to them.
static inline std::size_t pair_bytes(const Weights& w) {
    return 2 * code_bytes(w) + (w.zeros ? 128 : 64);
}

struct DenseKernels;  // dense.hpp

// What each instruction set brings. `mac` loops run `rounds` times and return the multiply-adds done.
struct Kernels {
    const char* name;
    const Floats* floats;
    const AttentionKernels* attention;
    void (*quantize)(const QuantizeJob&, std::int64_t first, std::int64_t last);
    void (*linear)(const LinearJob&, const Part&, std::uint8_t* scratch);
    std::uint64_t (*read)(const std::uint8_t* data, std::size_t bytes);
    double (*mac_int8)(std::int64_t rounds);
    double (*mac_bf16)(std::int64_t rounds);  // null where the processor has no such instruction
    double (*mac_fp32)(std::int64_t rounds);
    const DenseKernels* fp32;
    const DenseKernels* bf16;
    std::int64_t gated_to;    // tokens up to which `linear` of weights that are not dense can end in the gate
    std::int64_t tiled_from;  // tokens from which `linear` takes activations in plain rows, where groups allow it
};

}  // namespace nearfield
