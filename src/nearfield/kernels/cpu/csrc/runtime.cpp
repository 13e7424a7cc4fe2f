#include "runtime.hpp"

#include <algorithm>
#include <stdexcept>

#include "kernels.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kTogether = 3;           // blocks that the widest kernels take at once
constexpr std::int64_t kFewTokens = 8;          // tokens up to which they take one at a time
constexpr std::int64_t kTasksPerThread = 8;     // so that a thread that was interrupted holds up little
constexpr std::int64_t kSmallTask = 64 << 10;   // bytes of weights below which sharing costs more
constexpr std::int64_t kSmallQuantize = 8192;   // floats that one thread quantises in about a dispatch

#ifdef NEARFIELD_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

Kernels with_bf16(Kernels kernels) {
    if (__builtin_cpu_supports("avx512bf16")) kernels.mac_bf16 = avx512_mac_bf16;
    return kernels;
}
#endif

std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> found;
#ifdef NEARFIELD_X86
    if (has_avx512()) {
        static const Kernels kernels = with_bf16(avx512_kernels());
        found.push_back(&kernels);
    }
    if (has_avx2()) found.push_back(&avx2_kernels());
#endif
    found.push_back(&scalar_kernels());
    return found;
}

const Kernels* chosen(const std::string& isa) {
    std::string known;
    for (const Kernels* kernels : supported()) {
        if (isa == kernels->name) return kernels;
        known += std::string(known.empty() ? "" : ", ") + kernels->name;
    }
    throw std::invalid_argument("isa '" + isa + "' is not one that this build and this processor have: " + known);
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int32_t meaning_of_zero(const Weights& w) { return w.zeros ? 1 : w.bits == 8 ? 128 : 8; }

// Blocks of rows of one task.
std::int64_t blocks_of_task(const Weights& w, std::int64_t blocks, std::int64_t m, int threads) {
    const std::int64_t fair = ceil_div(blocks, threads * kTasksPerThread);
    const std::int64_t least = ceil_div(kSmallTask, static_cast<std::int64_t>(w.block_bytes));
    const std::int64_t together = m > kFewTokens ? kTogether : 1;
    return ceil_div(std::max(fair, least), together) * together;
}

}  // namespace

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Kernels* kernels : supported()) names.emplace_back(kernels->name);
    return names;
}

Runtime::Runtime(int threads, const std::string& isa)
    : kernels_(chosen(isa)), pool_(threads), attention_(*kernels_->attention, pool_, arena_) {
    for (int thread = 0; thread < threads; ++thread) scratch_.push_back(arena_.take(kScratch));
    rows_.resize(static_cast<std::size_t>(threads));
}

void Runtime::quantize_tokens(const QuantizeJob& job, const Before& before) {
    const std::int64_t k = job.acts.k, width = job.acts.width;
    const std::int64_t tokens = std::max<std::int64_t>(kPanel, kSmallQuantize / k / kPanel * kPanel);
    const bool plain = !before.norm && !before.gated;
    if (!plain) {
        for (Piece& rows : rows_) {
            const std::size_t bytes = static_cast<std::size_t>(width * k) * sizeof(float);
            if (rows.bytes < bytes) rows = arena_.take(bytes);
        }
    }
    pool_.share(ceil_div(job.acts.m, tokens), [&](std::int64_t task, int thread) {
        const std::int64_t first = task * tokens, last = std::min(job.acts.m, first + tokens);
        if (plain) return kernels_->quantize(job, first, last);
        float* rows = reinterpret_cast<float*>(rows_[static_cast<std::size_t>(thread)].get());
        for (std::int64_t panel = first; panel < last; panel += width) {
            const std::int64_t end = std::min(last, panel + width);
            for (std::int64_t token = panel; token < end; ++token) {
                prepare_row(before, job.x + token * job.stride, k, rows + (token - panel) * k);
            }
            kernels_->quantize({rows - panel * k, k, job.acts, job.zero}, panel, end);
        }
    });
}

void Runtime::prepare_row(const Before& before, const float* x, std::int64_t k, float* out) const {
    if (before.gated) return kernels_->floats->gate(x, k, out);
    kernels_->floats->normalise(x, before.norm, before.eps, k, out);
}

void Runtime::rms_norm(const float* x, std::int64_t m, std::int64_t n, std::int64_t stride, const float* weight, float eps,
                       float* y) {
    const std::int64_t tokens = std::max<std::int64_t>(1, kSmallQuantize / n);
    pool_.share(ceil_div(m, tokens), [&](std::int64_t task, int) {
        for (std::int64_t t = task * tokens; t < std::min(m, (task + 1) * tokens); ++t) {
            kernels_->floats->normalise(x + t * stride, weight, eps, n, y + t * n);
        }
    });
}

void Runtime::quantize(const float* x, std::int64_t m, std::int64_t k, std::int64_t stride, std::int64_t group,
                       std::int8_t* codes, float* scales, std::int32_t* sums) {
    if (group < 32 || group % 32 || k % group) {
        throw std::invalid_argument("activations of " + std::to_string(k) + " columns can not be quantised in groups of " +
                                    std::to_string(group) + "; groups are a multiple of 32 that divides the columns");
    }
    quantize_tokens({x, stride, {codes, scales, sums, m, k, group, 1}, -1}, {});
}

// Memory for the quantised activations, the last panel's missing tokens being zeros.
Acts Runtime::room_for(const Weights& w, std::int64_t m) {
    const int width = m == 1 ? 1 : kPanel;
    const std::int64_t padded = ceil_div(m, width) * width, groups = groups_of(w);
    const std::size_t codes = static_cast<std::size_t>(padded * w.k);
    const std::size_t floats = static_cast<std::size_t>(padded * groups) * sizeof(float);
    const std::size_t scales_at = (codes + 63) / 64 * 64, offsets_at = scales_at + (floats + 63) / 64 * 64;
    if (acts_.bytes < offsets_at + floats) acts_ = arena_.take(offsets_at + floats);
    std::uint8_t* data = acts_.get();
    Acts acts{reinterpret_cast<std::int8_t*>(data), reinterpret_cast<float*>(data + scales_at),
              reinterpret_cast<std::int32_t*>(data + offsets_at), m, w.k, w.group, width};
    if (padded > m) {
        const std::int64_t whole = padded - kPanel;
        std::fill(acts.codes + whole * w.k, acts.codes + padded * w.k, std::int8_t{0});
        std::fill(acts.scales + whole * groups, acts.scales + padded * groups, 0.0f);
        std::fill(acts.offsets + whole * groups, acts.offsets + padded * groups, 0);
    }
    return acts;
}

void Runtime::linear(const LinearCall& call) {
    const Weights& w = *call.weights;
    const std::int64_t m = call.m;
    if (m == 0) return;
    const std::lock_guard<std::mutex> turn(one_call_);
    const Acts acts = room_for(w, m);
    quantize_tokens({call.x, call.x_stride, acts, meaning_of_zero(w)}, call.before);
    const LinearJob job{w, acts, call.bias, call.residual, call.residual_stride, call.y, call.y_stride};
    const std::int64_t blocks = ceil_div(w.n, kRows), step = blocks_of_task(w, blocks, m, threads());
    const std::int64_t across = ceil_div(blocks, step), slabs = ceil_div(m, kSlab);
    pool_.share(across * slabs, [&](std::int64_t task, int thread) {
        const std::int64_t block = task % across * step, token = task / across * kSlab;
        const Part part{block, std::min(blocks, block + step), token, std::min(m, token + kSlab)};
        kernels_->linear(job, part, scratch_[static_cast<std::size_t>(thread)].get());
    });
}

void Runtime::attention(const AttentionCall& call) {
    const std::lock_guard<std::mutex> turn(one_call_);
    attention_.run(call);
}

}  // namespace nearfield
