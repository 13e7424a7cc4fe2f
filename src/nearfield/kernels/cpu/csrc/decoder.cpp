#include "decoder.hpp"

#include <algorithm>
#include <stdexcept>

#include "embed.hpp"

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

// x becomes what the layer makes of it. `rows` has room for what lies between (floats_between).
void run_layer(Runtime& runtime, const Layer& layer, const AttentionCall& call, float* rows, float* x) {
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
    runtime.linear({&down, projected, m, inner, {nullptr, 0.0f, !gated}, layer.down.bias, middle, down.n, x, down.n});
}

// The rows of cos and sin of these positions.
void find_angles(const Decoder& decoder, const std::int64_t* positions, std::int64_t tokens, float* cos, float* sin) {
    const std::int64_t half = decoder.layers.front().size / 2;
    for (std::int64_t token = 0; token < tokens; ++token, cos += half, sin += half) {
        const std::int64_t position = positions[token];
        if (position < 0 || position >= decoder.positions) {
            throw std::out_of_range("position " + std::to_string(position) + " is not one of the " +
                                    std::to_string(decoder.positions) + " that the model has angles of");
        }
        std::copy_n(decoder.cos + position * half, half, cos);
        std::copy_n(decoder.sin + position * half, half, sin);
    }
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

void run_decoder(Runtime& runtime, const Decoder& decoder, const std::vector<Cache>& caches, const std::int64_t* tokens,
                 const std::int64_t* positions, const AttentionCall& call, float* y) {
    const std::vector<Layer>& layers = decoder.layers;
    if (layers.size() != caches.size()) throw std::invalid_argument("each layer needs a cache of its own");
    std::int64_t floats = 0;
    for (const Layer& layer : layers) floats = std::max(floats, floats_between(layer));
    const std::int64_t angles = call.tokens * layers.front().size / 2, d = decoder.table.view.k;
    const Runtime::Rows rows = runtime.rows(static_cast<std::size_t>(call.tokens * floats + 2 * angles));
    float *cos = rows.data + call.tokens * floats, *sin = cos + angles;
    find_angles(decoder, positions, call.tokens, cos, sin);
    embed(runtime, decoder.table.view, tokens, call.tokens, y);
    AttentionCall each = call;
    each.cos = cos;
    each.sin = sin;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        each.kv.k = caches[i].k;
        each.kv.v = caches[i].v;
        run_layer(runtime, layers[i], each, rows.data, y);
    }
    runtime.rms_norm(y, call.tokens, d, d, decoder.norm.weight, decoder.norm.eps, y);
}

}  // namespace nearfield
