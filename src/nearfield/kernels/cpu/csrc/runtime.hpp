// Kernels of one instruction set on one pool of threads, with the memory they need: what Python holds.
#pragma once

#include <string>
#include <vector>

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

// How weights times m tokens become tasks: `step` blocks by `slab` tokens each, all blocks of a slab in turn.
struct Cut {
    std::int64_t blocks, m, slab, step, across, tasks;

    Part part(std::int64_t task) const;
};

Cut cut_up(const Weights& weights, std::int64_t m, int threads);

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

    // y [m, n] = x [m, k] x weights^T + bias [n] or null; x is quantised, unless the weights are dense.
    void linear(const Weights& weights, const float* x, std::int64_t m, std::int64_t x_stride, const float* bias,
                float* y, std::int64_t y_stride);

private:
    Acts room_for(const Weights& weights, std::int64_t m);
    void quantize_tokens(const QuantizeJob& job);

    const Kernels* kernels_;
    Pool pool_;
    Arena arena_;
    std::vector<Piece> scratch_;  // one piece a thread
    std::mutex one_call_;         // the activations below belong to one call at a time
    Piece acts_;
};

}  // namespace nearfield
