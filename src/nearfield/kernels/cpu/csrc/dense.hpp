// Dense weights: what each instruction set brings for them, and the operation made of it.
// The numeric profile: an output is one chain of fused multiply-adds over ascending columns that starts at 0,
// then + bias, then + residual; a NaN is 0x7fc00000, whichever it was.
//   fp32: activations as they are.
//   bf16: activations rounded to bf16, half to even. Widened to fp32 and multiplied as there (-fma-), or two
//         columns at a time by vdpbf16ps, in its own arithmetic: it takes subnormals for zero, for one (-dp-).
//         An odd number of columns has one of zeros more.
// Included by every instruction set: only data and declarations.
#pragma once

#include "job.hpp"

namespace nearfield {

class Runtime;
struct LinearCall;

// Activations of m tokens as the tiles read them: 32-bit words [panel][word][width], room for `words` of each
// token, width being kPanel, or 1 for a single token. A word is a float, or two bf16 for vdpbf16ps.
struct Panels {
    float* data;
    std::int64_t m, k, words;
    int width;
};

// Where the activations come from: x [m, k], `stride` floats between rows.
struct PackJob {
    const float* x;
    std::int64_t stride;
    Panels panels;
};

// Where sums go: y [m, n] = (sums + bias) + residual. Strides in floats.
struct Outputs {
    const float* bias;      // [n] or null
    const float* residual;  // [m, n] or null
    std::int64_t residual_stride;
    float* y;
    std::int64_t y_stride;
};

struct DenseJob {
    Weights weights;
    Panels panels;
    Outputs out;
};

// The kernels of one kind of dense weights. A line is 64 bytes of a block: one column, or two of bf16.
struct DenseKernels {
    const char* profile;  // its part of the profile's id
    int words;  // of a token for each line
    int panel;  // tokens whose activations lie interleaved, when there are several
    // Tokens [first, last) into their panels, both whole panels, or last == m; what a panel lacks is zero.
    void (*pack)(const PackJob&, std::int64_t first, std::int64_t last);
    void (*multiply)(const DenseJob&, const Part&, std::uint8_t* scratch);
};

constexpr int kLine = 64;

// Lines of a block that hold columns; bf16 is filled up with zeros to whole tiles of 16.
static inline std::int64_t lines_of(const Weights& w) { return w.codes == Codes::bf16 ? (w.k + 1) / 2 : w.k; }

// Words of a token: those of all lines, filled up to a tile's.
static inline std::int64_t words_of(const Weights& w, const DenseKernels& kernels) {
    return (lines_of(w) * kernels.words + kTileLines - 1) / kTileLines * kTileLines;
}

extern const DenseKernels scalar_fp32, scalar_bf16;
#ifdef NEARFIELD_X86
extern const DenseKernels avx2_fp32, avx2_bf16, avx512_fp32, avx512_bf16;
#ifdef NEARFIELD_AVX512BF16
extern const DenseKernels avx512_bf16_pairs;
#endif
#ifdef NEARFIELD_AMX
extern const DenseKernels amx_bf16;
#endif
#endif

const DenseKernels& dense_kernels(const Kernels& kernels, Codes codes);

// Room for the activations of m tokens, which belongs to the call whose turn it is (Runtime::linear).
Panels room_for_panels(Runtime& runtime, const Weights& weights, std::int64_t m);

// All tokens of the call into their panels, on all threads.
void pack_tokens(Runtime& runtime, const Weights& weights, const LinearCall& call, const Panels& panels);

// All tiles of weights x panels, on all threads.
void multiply_panels(Runtime& runtime, const DenseJob& job);

// The three one after another.
void dense_linear(Runtime& runtime, const LinearCall& call);

}  // namespace nearfield
