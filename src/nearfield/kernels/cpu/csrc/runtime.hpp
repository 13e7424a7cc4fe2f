// Kernels of one instruction set on one pool of threads, with the memory they need: what Python holds.
#pragma once

#include <string>
#include <vector>

#include "attention_run.hpp"
#include "job.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace nearfield {

// The instruction sets that this build and this processor both have, best first.
std::vector<std::string> supported_isas();

// Weights that own their memory.
struct PackedWeights {
    Weights view;
    Piece memory;
};

// What is done to a row before it is rounded: nothing, a norm, or the gate (x then has 2 k columns).
struct Before {
    const float* norm = nullptr;  // [k]
    float eps = 0.0f;
    bool gated = false;
};

// y [m, n] = quantised before(x) [m, k] x weights^T + bias [n] + residual [m, n]; null: none. Strides in floats.
struct LinearCall {
    const Weights* weights;
    const float* x;
    std::int64_t m, x_stride;
    Before before;
    const float* bias;
    const float* residual;
    std::int64_t residual_stride;
    float* y;
    std::int64_t y_stride;
    bool gated = false;  // y [m, n / 2] = silu(first half) * second half; where Runtime::ends_in_gate
};

// How weights times m tokens become tasks: `step` blocks by `slab` tokens each, all blocks of a slab in turn.
struct Cut {
    std::int64_t blocks, m, slab, step, across, tasks;

    Part part(std::int64_t task) const;
};

Cut cut_up(const Weights& weights, std::int64_t blocks, std::int64_t m, std::int64_t slab, int threads);

// Tokens of a task, `most` of them or as many as fit `bytes`: they stay in the L2 cache while the weights go by.
std::int64_t tokens_of_slab(std::int64_t most, std::int64_t bytes, std::int64_t of_token);

class Runtime {
public:
    // `isa` is one of supported_isas(); anything else throws std::invalid_argument.
    Runtime(int threads, const std::string& isa);

    int threads() const { return pool_.threads(); }
    const char* isa() const { return kernels_->name; }
    Pool& pool() { return pool_; }
    Arena& arena() { return arena_; }
    const Kernels& kernels() const { return *kernels_; }

    // kScratch bytes of a thread's own.
    std::uint8_t* scratch(int thread) const { return scratch_[static_cast<std::size_t>(thread)].get(); }

    // At least `bytes` for the activations of the call whose turn it is.
    std::uint8_t* room(std::size_t bytes);

    // x [m, k] fp32 with `stride` floats between rows to plain codes [m, k], scales and sums [m, k / group].
    void quantize(const float* x, std::int64_t m, std::int64_t k, std::int64_t stride, std::int64_t group,
                  std::int8_t* codes, float* scales, std::int32_t* sums);

    void linear(const LinearCall& call);

    // Whether `linear` of m tokens can end in the gate, which spares memory half of what it writes and all that the gate
    // would read.
    bool ends_in_gate(const Weights& weights, std::int64_t m) const;

    void attention(const AttentionCall& call);

    // Each row of x [m, n] normalised on its own, to y.
    void rms_norm(const float* x, std::int64_t m, std::int64_t n, std::int64_t stride, const float* weight, float eps,
                  float* y);

    // Memory for `count` floats between the operations of one call, held until it goes.
    struct Rows {
        std::unique_lock<std::mutex> turn;
        float* data;
    };
    Rows rows(std::size_t count);

    // Calls take(x, stride, first, last) for all tokens of x [m, k], on all threads, with what comes before done to
    // their rows. first and last are multiples of `panel`, or last is m.
    template <class Take>
    void each_panel(const Before& before, const float* x, std::int64_t m, std::int64_t k, std::int64_t stride,
                    std::int64_t panel, const Take& take);

private:
    bool tiled(const Weights& weights, std::int64_t m) const;
    Acts room_for(const Weights& weights, std::int64_t m);
    float* rows_of(int thread, std::size_t count);
    void quantize_tokens(const QuantizeJob& job, const Before& before);

    const Kernels* kernels_;
    Pool pool_;
    Arena arena_;
    std::vector<Piece> scratch_;  // one piece a thread
    std::mutex one_call_;         // the activations below belong to one call at a time
    Piece acts_;
    std::mutex one_owner_;  // of what `rows` hands out
    Piece between_;
    Attention attention_;
    std::vector<Piece> rows_;  // one piece a thread: rows between what comes before and their rounding
};

template <class Take>
void Runtime::each_panel(const Before& before, const float* x, std::int64_t m, std::int64_t k, std::int64_t stride,
                         std::int64_t panel, const Take& take) {
    constexpr std::int64_t kSmall = 8192;  // floats that one thread takes in about a dispatch
    const std::int64_t fit = kSmall / k / kPanel * kPanel, tokens = fit > kPanel ? fit : kPanel;
    pool_.share((m + tokens - 1) / tokens, [&](std::int64_t task, int thread) {
        const std::int64_t first = task * tokens, last = first + tokens < m ? first + tokens : m;
        if (!before.norm && !before.gated) return take(x, stride, first, last);
        float* rows = rows_of(thread, static_cast<std::size_t>(panel * k));
        for (std::int64_t at = first; at < last; at += panel) {
            const std::int64_t end = at + panel < last ? at + panel : last;
            for (std::int64_t token = at; token < end; ++token) {
                float* row = rows + (token - at) * k;
                if (before.gated) {
                    kernels_->floats->gate(x + token * stride, k, row);
                } else {
                    kernels_->floats->normalise(x + token * stride, before.norm, before.eps, k, row);
                }
            }
            take(rows - at * k, k, at, end);
        }
    });
}

}  // namespace nearfield
