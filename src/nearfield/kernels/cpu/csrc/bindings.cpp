// The module _native: plain integers for pointers, since an array argument costs 2 us. Python's side
// (nearfield/kernels/cpu) checks shapes and types; here only what could not be checked there.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "dense.hpp"
#include "embed.hpp"
#include "decoder.hpp"
#include "limits.hpp"
#include "pack.hpp"
#include "philox.hpp"
#include "round.hpp"
#include "runtime.hpp"
#include "sample.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace nearfield {
namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

PackedWeights pack_rows_at(Runtime& runtime, Address codes, Address scales, std::int64_t n, std::int64_t k) {
    const nb::gil_scoped_release released;
    return pack_rows(runtime, at<const std::int8_t>(codes), at<const float>(scales), n, k);
}

PackedWeights pack_groups_at(Runtime& runtime, int bits, Address codes, Address scales, bool bf16, Address zeros,
                             std::int64_t n, std::int64_t k, std::int64_t group) {
    const nb::gil_scoped_release released;
    return pack_groups(runtime, bits, at<const std::uint8_t>(codes), at<const std::uint16_t>(scales),
                       bf16 ? Scale::bf16 : Scale::f16, at<const std::uint8_t>(zeros), n, k, group);
}

PackedWeights pack_dense_at(Runtime& runtime, Address matrix, bool bf16, std::int64_t n, std::int64_t k) {
    const nb::gil_scoped_release released;
    return bf16 ? pack_dense(runtime, at<const std::uint16_t>(matrix), n, k)
                : pack_dense(runtime, at<const float>(matrix), n, k);
}

void embed_at(Runtime& runtime, const PackedWeights& table, Address tokens, std::int64_t count, Address y) {
    const nb::gil_scoped_release released;
    embed(runtime, table.view, at<const std::int64_t>(tokens), count, at<float>(y));
}

std::string dense_profile(const Runtime& runtime, bool bf16) {
    return dense_kernels(runtime.kernels(), bf16 ? Codes::bf16 : Codes::fp32).profile;
}

// The bytes of the weights, to be written to a file or filled from one, as a memoryview that keeps them alive.
int buffer_of(PyObject* weights, Py_buffer* view, int flags) {
    const Piece& memory = nb::inst_ptr<PackedWeights>(nb::handle(weights))->memory;
    return PyBuffer_FillInfo(view, weights, memory.get(), static_cast<Py_ssize_t>(memory.bytes), 0, flags);
}

void linear_at(Runtime& runtime, const PackedWeights& weights, Address x, std::int64_t m, std::int64_t x_stride,
               Address norm, float eps, bool gated, Address bias, Address residual, std::int64_t residual_stride,
               Address y, std::int64_t y_stride) {
    const nb::gil_scoped_release released;
    runtime.linear({&weights.view, at<const float>(x), m, x_stride, {at<const float>(norm), eps, gated},
                    at<const float>(bias), at<const float>(residual), residual_stride, at<float>(y), y_stride});
}

void rms_norm_at(Runtime& runtime, Address x, std::int64_t m, std::int64_t n, std::int64_t stride, Address weight,
                 float eps, Address y) {
    const nb::gil_scoped_release released;
    runtime.rms_norm(at<const float>(x), m, n, stride, at<const float>(weight), eps, at<float>(y));
}

void attention_at(Runtime& runtime, Address qkv, std::int64_t tokens, std::int64_t stride, std::int64_t heads,
                  Address q_norm, float q_eps, Address k_norm, float k_eps, Address cos, Address sin, Address k,
                  Address v, bool bf16, std::int64_t cache_pages, std::int64_t kv_heads, std::int64_t size,
                  std::int64_t page, std::int64_t window, Address spans, std::int64_t rows, Address pages,
                  std::int64_t page_count, Address out) {
    const nb::gil_scoped_release released;
    runtime.attention({at<const float>(qkv), tokens, stride, heads, {at<const float>(q_norm), q_eps},
                       {at<const float>(k_norm), k_eps}, at<const float>(cos), at<const float>(sin),
                       {at<void>(k), at<void>(v), bf16, cache_pages, kv_heads, size, page}, window,
                       at<const std::int64_t>(spans), rows, at<const std::int64_t>(pages), page_count,
                       at<float>(out)});
}

// A tensor over the memory, which lives as long as either.
nb::ndarray<nb::pytorch, std::uint8_t, nb::ndim<1>> tensor_of(const Piece& piece) {
    const auto free = [](void* owner) noexcept { delete static_cast<Piece*>(owner); };
    return {piece.get(), {piece.bytes}, nb::capsule(new Piece(piece), free)};
}

void quantize_at(Runtime& runtime, Address x, std::int64_t m, std::int64_t k, std::int64_t stride,
                 std::int64_t group, Address codes, Address scales, Address sums) {
    const nb::gil_scoped_release released;
    runtime.quantize(at<const float>(x), m, k, stride, group, at<std::int8_t>(codes), at<float>(scales),
                     at<std::int32_t>(sums));
}

std::vector<std::int64_t> sample_at(Runtime& runtime, Address logits, std::int64_t v, std::int64_t stride,
                                    const nb::bytes& rows) {
    std::vector<SampleRow> how(rows.size() / sizeof(SampleRow));
    std::memcpy(how.data(), rows.c_str(), how.size() * sizeof(SampleRow));
    const nb::gil_scoped_release released;
    return sample(runtime, at<const float>(logits), v, stride, how);
}

bool round_at(Runtime& runtime, Address weights, bool bf16, std::int64_t n, std::int64_t k, std::int64_t stride,
              std::int64_t group, int low, int high, bool half, Address codes, Address scales) {
    const nb::gil_scoped_release released;
    const RoundJob job{at<const void>(weights), bf16, k, stride, group, static_cast<float>(low),
                       static_cast<float>(high), half, at<std::int8_t>(codes), at<float>(scales)};
    return round_to_nearest(runtime, job, n);
}

Layer layer_of(const PackedWeights& qkv, Address qkv_bias, const PackedWeights& out, Address out_bias,
               const PackedWeights& gate_up, Address gate_up_bias, const PackedWeights& down, Address down_bias,
               Address attention_norm, float attention_eps, Address mlp_norm, float mlp_eps, Address q_norm, float q_eps,
               Address k_norm, float k_eps, std::int64_t heads, std::int64_t kv_heads, std::int64_t size,
               std::int64_t window) {
    const auto matrix = [](const PackedWeights& weights, Address bias) { return Matrix{weights, at<const float>(bias)}; };
    const Layer layer{matrix(qkv, qkv_bias), matrix(out, out_bias), matrix(gate_up, gate_up_bias), matrix(down, down_bias),
                      {at<const float>(attention_norm), attention_eps}, {at<const float>(mlp_norm), mlp_eps},
                      {at<const float>(q_norm), q_eps}, {at<const float>(k_norm), k_eps}, heads, kv_heads, size, window};
    check_layer(layer);
    return layer;
}

// A vector that Python holds as it is.
struct Caches {
    std::vector<Cache> all;
};

void decode_at(Runtime& runtime, const Decoder& decoder, const Caches& caches, Address tokens, Address positions,
               std::int64_t count, bool bf16, std::int64_t cache_pages, std::int64_t page, Address spans, std::int64_t rows,
               Address pages, std::int64_t page_count, Address y) {
    const nb::gil_scoped_release released;
    const Layer& first = decoder.layers.front();
    AttentionCall call{};
    call.tokens = count;
    call.kv = {nullptr, nullptr, bf16, cache_pages, first.kv_heads, first.size, page};
    call.spans = at<const std::int64_t>(spans);
    call.rows = rows;
    call.pages = at<const std::int64_t>(pages);
    call.page_count = page_count;
    run_decoder(runtime, decoder, caches.all, at<const std::int64_t>(tokens), at<const std::int64_t>(positions), call,
                at<float>(y));
}

std::uint64_t read_at(Runtime& runtime, const Piece& memory) {
    const nb::gil_scoped_release released;
    return read_all(runtime, memory.get(), memory.bytes);
}

double multiply(Runtime& runtime, const std::string& kind, std::int64_t rounds) {
    const nb::gil_scoped_release released;
    return multiply_all(runtime, kind, rounds);
}

}  // namespace
}  // namespace nearfield

NB_MODULE(_native, m) {
    using namespace nearfield;
    m.def("supported_isas", &supported_isas);
    m.def("philox4x32", &philox4x32, "counter"_a, "key"_a);

    m.attr("LAYOUT") = kLayout;

    PyType_Slot buffer[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&buffer_of)}, {0, nullptr}};
    nb::class_<PackedWeights>(m, "PackedWeights", nb::type_slots(buffer))
        .def_prop_ro("layout", [](const PackedWeights& w) { return describe(w.view); })
        .def_prop_ro("n", [](const PackedWeights& w) { return w.view.n; })
        .def_prop_ro("k", [](const PackedWeights& w) { return w.view.k; })
        .def_prop_ro("nbytes", [](const PackedWeights& w) { return w.memory.bytes; });

    nb::class_<Piece>(m, "Memory")
        .def_prop_ro("address", [](const Piece& p) { return reinterpret_cast<Address>(p.get()); })
        .def_prop_ro("nbytes", [](const Piece& p) { return p.bytes; })
        .def("tensor", &tensor_of);

    nb::class_<Layer>(m, "Layer");
    nb::class_<Decoder>(m, "Decoder")
        .def("__init__",
             [](Decoder* made, const PackedWeights& table, const nb::list& layers, Address norm, float eps, Address cos,
                Address sin, std::int64_t positions) {
                 new (made) Decoder{table, {}, {at<const float>(norm), eps}, at<const float>(cos), at<const float>(sin),
                                    positions};
                 for (nb::handle layer : layers) made->layers.push_back(nb::cast<const Layer&>(layer));
                 if (made->layers.empty()) throw std::invalid_argument("a model has at least one layer");
             },
             "table"_a, "layers"_a, "norm"_a, "eps"_a, "cos"_a, "sin"_a, "positions"_a);
    nb::class_<Caches>(m, "Caches").def("__init__", [](Caches* made, const nb::list& addresses) {
        new (made) Caches();
        for (nb::handle pair : addresses) {
            made->all.push_back({at<void>(nb::cast<Address>(pair[0])), at<void>(nb::cast<Address>(pair[1]))});
        }
    });
    m.def("layer_of", &layer_of, "qkv"_a, "qkv_bias"_a, "out"_a, "out_bias"_a, "gate_up"_a, "gate_up_bias"_a, "down"_a,
          "down_bias"_a, "attention_norm"_a, "attention_eps"_a, "mlp_norm"_a, "mlp_eps"_a, "q_norm"_a, "q_eps"_a,
          "k_norm"_a, "k_eps"_a, "heads"_a, "kv_heads"_a, "size"_a, "window"_a);

    nb::class_<Runtime>(m, "Runtime")
        .def(nb::init<int, const std::string&>(), "threads"_a, "isa"_a)
        .def_prop_ro("threads", &Runtime::threads)
        .def_prop_ro("isa", &Runtime::isa)
        .def("memory", [](Runtime& r, std::size_t bytes) { return r.arena().take(bytes); }, "nbytes"_a)
        .def("pack_rows", &pack_rows_at, "codes"_a, "scales"_a, "n"_a, "k"_a)
        .def("pack_groups", &pack_groups_at, "bits"_a, "codes"_a, "scales"_a, "bf16"_a, "zeros"_a, "n"_a, "k"_a,
             "group"_a)
        .def("pack_dense", &pack_dense_at, "matrix"_a, "bf16"_a, "n"_a, "k"_a)
        .def("dense_profile", &dense_profile, "bf16"_a)
        .def("embed", &embed_at, "table"_a, "tokens"_a, "count"_a, "y"_a)
        .def("blank", &blank, "layout"_a)
        .def("quantize", &quantize_at, "x"_a, "m"_a, "k"_a, "stride"_a, "group"_a, "codes"_a, "scales"_a, "sums"_a)
        .def("linear", &linear_at, "weights"_a, "x"_a, "m"_a, "x_stride"_a, "norm"_a, "eps"_a,
             "gated"_a, "bias"_a, "residual"_a, "residual_stride"_a, "y"_a, "y_stride"_a)
        .def("rms_norm", &rms_norm_at, "x"_a, "m"_a, "n"_a, "stride"_a, "weight"_a, "eps"_a, "y"_a)
        .def("sample", &sample_at, "logits"_a, "v"_a, "stride"_a, "rows"_a)
        .def("round_to_nearest", &round_at, "weights"_a, "bf16"_a, "n"_a, "k"_a, "stride"_a, "group"_a, "low"_a,
             "high"_a, "half"_a, "codes"_a, "scales"_a)
        .def("attention", &attention_at, "qkv"_a, "tokens"_a, "stride"_a, "heads"_a, "q_norm"_a, "q_eps"_a, "k_norm"_a,
             "k_eps"_a, "cos"_a, "sin"_a, "k"_a, "v"_a, "bf16"_a, "cache_pages"_a, "kv_heads"_a, "size"_a, "page"_a,
             "window"_a, "spans"_a, "rows"_a, "pages"_a, "page_count"_a, "out"_a)
        .def("decode", &decode_at, "decoder"_a, "caches"_a, "tokens"_a, "positions"_a, "count"_a, "bf16"_a,
             "cache_pages"_a, "page"_a, "spans"_a, "rows"_a, "pages"_a, "page_count"_a, "y"_a)
        .def("read", &read_at, "memory"_a)
        .def("multiply", &multiply, "kind"_a, "rounds"_a);
}
