#include "dense.hpp"

#include <algorithm>

#include "runtime.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kCollide = 1024;     // panels so many words apart would share a few sets of the second cache
constexpr std::int64_t kApart = 128;        // and so many more spread them
constexpr std::int64_t kSmallPack = 16384;  // floats that one thread packs in about a dispatch

}  // namespace

const DenseKernels& dense_kernels(const Kernels& kernels, Codes codes) {
    return codes == Codes::fp32 ? *kernels.fp32 : *kernels.bf16;
}

Panels room_for_panels(Runtime& runtime, const Weights& w, std::int64_t m) {
    const std::int64_t needed = lines_of(w) * dense_kernels(runtime.kernels(), w.codes).words;
    const std::int64_t words = needed % kCollide ? needed : needed + kApart;
    const int width = m == 1 ? 1 : kPanel;
    const std::int64_t padded = (m + width - 1) / width * width;
    std::uint8_t* room = runtime.room(static_cast<std::size_t>(padded * words) * sizeof(float));
    return {reinterpret_cast<float*>(room), m, w.k, words, width};
}

void pack_tokens(Runtime& runtime, const Weights& w, const PackJob& job) {
    const DenseKernels& kernels = dense_kernels(runtime.kernels(), w.codes);
    const std::int64_t m = job.panels.m;
    const std::int64_t tokens = std::max<std::int64_t>(kPanel, kSmallPack / job.panels.k / kPanel * kPanel);
    runtime.pool().share((m + tokens - 1) / tokens, [&](std::int64_t task, int) {
        kernels.pack(job, task * tokens, std::min(m, (task + 1) * tokens));
    });
}

void multiply_panels(Runtime& runtime, const DenseJob& job) {
    const DenseKernels& kernels = dense_kernels(runtime.kernels(), job.weights.codes);
    const Cut cut = cut_up(job.weights, job.panels.m, runtime.threads());
    runtime.pool().share(cut.tasks, [&](std::int64_t task, int thread) {
        kernels.multiply(job, cut.part(task), runtime.scratch(thread));
    });
}

void dense_linear(Runtime& runtime, const Weights& w, const float* x, std::int64_t m, std::int64_t x_stride,
                  const Outputs& out) {
    const Panels panels = room_for_panels(runtime, w, m);
    pack_tokens(runtime, w, {x, x_stride, panels});
    multiply_panels(runtime, {w, panels, out});
}

}  // namespace nearfield
