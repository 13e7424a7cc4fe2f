// A model but its head in one call: what Python does between operations finds its code thrown out of the caches by the
// weights, and costs more than some of the operations.
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

// From tokens to hidden states: the table, the layers, the norm after them. cos and sin [positions, size / 2].
struct Decoder {
    PackedWeights table;
    std::vector<Layer> layers;
    RowNorm norm;
    const float* cos;
    const float* sin;
    std::int64_t positions;
};

// `tokens` at `positions`, rows end to end, to y [tokens, d]. What `call` has of a step is used: the shape of the cache,
// rows, pages. Throws std::out_of_range for a token or a position that there is not.
void run_decoder(Runtime& runtime, const Decoder& decoder, const std::vector<Cache>& caches, const std::int64_t* tokens,
                 const std::int64_t* positions, const AttentionCall& call, float* y);

}  // namespace nearfield
