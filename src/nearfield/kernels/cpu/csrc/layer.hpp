// The layers of a model in one call: what Python does between operations finds its code thrown out of the caches by
// the weights, and costs more than some of the operations.
#pragma once

#include "runtime.hpp"

namespace nearfield {

struct Matrix {
    PackedWeights weights;
    const float* bias;  // [n] or null
};

struct RowNorm {
    const float* weight;
    float eps;
};

// x + out(attention(qkv(norm(x)))), and to that + down(gate(gate_up(norm))). `heads` of size `size`, `kv_heads` of K
// and V. Norms and biases belong to the caller.
struct Layer {
    Matrix qkv, out, gate_up, down;
    RowNorm attention_norm, mlp_norm;
    HeadNorm q_norm, k_norm;
    std::int64_t heads, kv_heads, size, window;
};

// Throws std::invalid_argument where the matrices do not follow one upon the other.
void check_layer(const Layer& layer);

// One layer's cache, of the shape that all layers' have.
struct Cache {
    void* k;
    void* v;
};

// All layers of a model, one after another: x [tokens, d] to y [tokens, d], rows end to end. What `call` has of a step
// is used: rotation, the shape of the cache, rows, pages.
void run_layers(Runtime& runtime, const std::vector<Layer>& layers, const std::vector<Cache>& caches, const float* x,
                const AttentionCall& call, float* y);

}  // namespace nearfield
