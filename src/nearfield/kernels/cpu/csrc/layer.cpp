#include "layer.hpp"

#include <algorithm>
#include <stdexcept>

namespace nearfield {
namespace {

void check(bool fits, const std::string& what) {
    if (!fits) throw std::invalid_argument("the layer's matrices do not fit each other: " + what);
}

// A token's floats between the operations of a layer. What qkv and the attention leave is no longer needed when
// gate_up writes.
std::int64_t floats_between(const Layer& layer) {
    const std::int64_t first = layer.qkv.weights.view.n + layer.out.weights.view.k, up = layer.gate_up.weights.view.n;
    return layer.out.weights.view.n + (first > up ? first : up);
}

// x to y, which may be the same. `rows` has room for what lies between (floats_between).
void run_layer(Runtime& runtime, const Layer& layer, const float* x, const AttentionCall& call, float* rows, float* y) {
    const Weights &qkv = layer.qkv.weights.view, &out = layer.out.weights.view;
    const Weights &up = layer.gate_up.weights.view, &down = layer.down.weights.view;
    const std::int64_t m = call.tokens;
    float *middle = rows, *projected = middle + m * out.n, *attended = projected + m * qkv.n;
    runtime.linear({&qkv, x, m, qkv.k, {layer.attention_norm.weight, layer.attention_norm.eps, false}, layer.qkv.bias,
                    nullptr, 0, projected, qkv.n});
    AttentionCall attend = call;
    attend.qkv = projected;
    attend.stride = qkv.n;
    attend.heads = layer.heads;
    attend.q_norm = layer.q_norm;
    attend.k_norm = layer.k_norm;
    attend.window = layer.window;
    attend.out = attended;
    runtime.attention(attend);
    runtime.linear({&out, attended, m, out.k, {}, layer.out.bias, x, out.n, middle, out.n});
    const bool gated = runtime.ends_in_gate(up, m);
    const std::int64_t inner = gated ? down.k : up.n;
    runtime.linear({&up, middle, m, up.k, {layer.mlp_norm.weight, layer.mlp_norm.eps, false}, layer.gate_up.bias, nullptr,
                    0, projected, inner, gated});
    runtime.linear({&down, projected, m, inner, {nullptr, 0.0f, !gated}, layer.down.bias, middle, down.n, y, down.n});
}

}  // namespace

void check_layer(const Layer& layer) {
    const Weights &qkv = layer.qkv.weights.view, &out = layer.out.weights.view;
    const Weights &up = layer.gate_up.weights.view, &down = layer.down.weights.view;
    check(layer.kv_heads > 0 && layer.heads > 0 && layer.heads % layer.kv_heads == 0, "heads");
    check(qkv.n == (layer.heads + 2 * layer.kv_heads) * layer.size, "qkv has " + std::to_string(qkv.n) + " rows");
    check(out.k == layer.heads * layer.size && out.n == qkv.k, "out");
    check(up.k == out.n && up.n == 2 * down.k && down.n == qkv.k, "gate_up and down");
}

void run_layers(Runtime& runtime, const std::vector<Layer>& layers, const std::vector<Cache>& caches, const float* x,
                const AttentionCall& call, float* y) {
    if (layers.size() != caches.size()) throw std::invalid_argument("each layer needs a cache of its own");
    std::int64_t floats = 0;
    for (const Layer& layer : layers) floats = std::max(floats, floats_between(layer));
    const Runtime::Rows rows = runtime.rows(static_cast<std::size_t>(call.tokens * floats));
    AttentionCall each = call;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        each.kv.k = caches[i].k;
        each.kv.v = caches[i].v;
        run_layer(runtime, layers[i], i ? y : x, each, rows.data, y);
    }
}

}  // namespace nearfield
