#include "dense.hpp"

#include "runtime.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kCollide = 1024;     // panels so many words apart would share a few sets of the second cache
constexpr std::int64_t kTiledBytes = 1280 << 10;  // of activations of a task, where tiles make weights the slower part
constexpr std::int64_t kApart = 128;        // and so many more spread them

}  // namespace

const DenseKernels& dense_kernels(const Kernels& kernels, Codes codes) {
    return codes == Codes::fp32 ? *kernels.fp32 : *kernels.bf16;
}

Panels room_for_panels(Runtime& runtime, const Weights& w, std::int64_t m) {
    const DenseKernels& kernels = dense_kernels(runtime.kernels(), w.codes);
    const std::int64_t needed = words_of(w, kernels);
    const std::int64_t words = kernels.panel == 1 || needed % kCollide ? needed : needed + kApart;
    const int width = m == 1 ? 1 : kernels.panel;
    const std::int64_t padded = (m + width - 1) / width * width;
    std::uint8_t* room = runtime.room(static_cast<std::size_t>(padded * words) * sizeof(float));
    return {reinterpret_cast<float*>(room), m, w.k, words, width};
}

void pack_tokens(Runtime& runtime, const Weights& w, const LinearCall& call, const Panels& panels) {
    const DenseKernels& kernels = dense_kernels(runtime.kernels(), w.codes);
    const auto pack = [&](const float* x, std::int64_t stride, std::int64_t first, std::int64_t last) {
        kernels.pack({x, stride, panels}, first, last);
    };
    runtime.each_panel(call.before, call.x, call.m, w.k, call.x_stride, panels.width, pack);
}

void multiply_panels(Runtime& runtime, const DenseJob& job) {
    const DenseKernels& kernels = dense_kernels(runtime.kernels(), job.weights.codes);
    const std::int64_t slab = kernels.panel == 1
                                  ? tokens_of_slab(2 * kDenseSlab, kTiledBytes, 4 * job.panels.words)
                                  : kDenseSlab;
    const Cut cut = cut_up(job.weights, blocks_of(job.weights), job.panels.m, slab, runtime.threads());
    runtime.pool().share(cut.tasks, [&](std::int64_t task, int thread) {
        kernels.multiply(job, cut.part(task), runtime.scratch(thread));
    });
}

void dense_linear(Runtime& runtime, const LinearCall& call) {
    const Weights& w = *call.weights;
    const Panels panels = room_for_panels(runtime, w, call.m);
    pack_tokens(runtime, w, call, panels);
    multiply_panels(runtime, {w, panels, {call.bias, call.residual, call.residual_stride, call.y, call.y_stride}});
}

}  // namespace nearfield
