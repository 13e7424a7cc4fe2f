#include "runtime.hpp"

#ifdef NEARFIELD_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <stdexcept>

#include "dense.hpp"
#include "kernels.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kTogether = 3;           // blocks that the widest kernels take at once
constexpr std::int64_t kFewTokens = 16;         // tokens up to which tasks are cut between any two
constexpr std::int64_t kTasksPerThread = 8;     // so that a thread that was interrupted holds up little
constexpr std::int64_t kSmallTask = 64 << 10;   // bytes of weights below which sharing costs more
constexpr std::int64_t kSlabBytes = 640 << 10;  // of activations of one task
constexpr std::int64_t kTiledBytes = 1280 << 10;  // the same where tiles make weights the slower part
constexpr std::int64_t kPastBytes = 2 << 20;    // of logits, which would take a core's L2 cache
#ifdef NEARFIELD_AMX
constexpr std::int64_t kTiledFrom = 9;           // tokens, of which a tile takes 16
constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
#endif
constexpr std::int64_t kSmallNorm = 32768;      // floats that one thread normalises before another has woken up

#ifdef NEARFIELD_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

Kernels with_bf16(Kernels kernels) {
#ifdef NEARFIELD_AVX512BF16
    // Intel multiplies by vdpbf16ps at half the rate of fma, whose bits are the same on every machine.
    if (__builtin_cpu_supports("avx512bf16")) {
        kernels.mac_bf16 = avx512_mac_bf16;
        if (__builtin_cpu_is("amd")) kernels.bf16 = &avx512_bf16_pairs;
    }
#endif
    return kernels;
}
#endif

#ifdef NEARFIELD_AMX
// Tiles are large, so Linux wants to be asked before a process uses them.
bool has_amx() {
    unsigned a, b, c, d;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool tiles = d >> 24 & 1, int8 = d >> 25 & 1;
    return tiles && int8 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool amx_multiplies_bf16() {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx512bf16") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
}

Kernels with_amx(Kernels kernels) {
    kernels.name = "amx";
    kernels.linear = amx_linear;
    kernels.tiled_from = kTiledFrom;
    kernels.mac_int8 = amx_mac_int8;
    if (amx_multiplies_bf16()) {
        kernels.attention = &amx_attention;
        kernels.bf16 = &amx_bf16;
        kernels.mac_bf16 = amx_mac_bf16;
    }
    return kernels;
}
#endif

std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> found;
#ifdef NEARFIELD_AMX
    static const bool amx = has_amx();
    if (amx) {
        static const Kernels kernels = with_amx(with_bf16(avx512_kernels()));
        found.push_back(&kernels);
    }
#endif
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

std::int32_t meaning_of_zero(const Weights& w) { return w.zeros ? 1 : w.codes == Codes::int8 ? 128 : 8; }

// Blocks of rows of one task.
std::int64_t blocks_of_task(const Weights& w, std::int64_t blocks, std::int64_t m, int threads) {
    const std::int64_t fair = ceil_div(blocks, threads * kTasksPerThread);
    const std::int64_t least = ceil_div(kSmallTask, static_cast<std::int64_t>(w.block_bytes));
    const std::int64_t together = m > kFewTokens ? kTogether : 1;
    return ceil_div(std::max(fair, least), together) * together;
}

bool in_whole_lines(const LinearCall& call) {
    constexpr std::int64_t line = 64, floats = line / sizeof(float);
    return reinterpret_cast<std::uintptr_t>(call.y) % line == 0 && call.y_stride % floats == 0 && call.weights->n % floats == 0;
}

std::int64_t bytes_of_y(const LinearCall& call) { return call.m * call.weights->n * static_cast<std::int64_t>(sizeof(float)); }

}  // namespace

std::int64_t tokens_of_slab(std::int64_t most, std::int64_t bytes, std::int64_t of_token) {
    const std::int64_t fit = bytes / of_token / (2 * kTileTokens) * (2 * kTileTokens);
    return std::min(most, std::max<std::int64_t>(fit, 2 * kTileTokens));
}

Cut cut_up(const Weights& w, std::int64_t blocks, std::int64_t m, std::int64_t slab, int threads) {
    Cut cut{blocks, m, slab, 0, 0, 0};
    cut.step = blocks_of_task(w, cut.blocks, m, threads);
    cut.across = ceil_div(cut.blocks, cut.step);
    cut.tasks = cut.across * ceil_div(m, cut.slab);
    return cut;
}

Part Cut::part(std::int64_t task) const {
    const std::int64_t block = task % across * step, token = task / across * slab;
    return {block, std::min(blocks, block + step), token, std::min(m, token + slab)};
}

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
    const auto quantize = [&](const float* x, std::int64_t stride, std::int64_t first, std::int64_t last) {
        kernels_->quantize({x, stride, job.acts, job.zero}, first, last);
    };
    each_panel(before, job.x, job.acts.m, job.acts.k, job.stride, job.acts.width, quantize);
}

float* Runtime::rows_of(int thread, std::size_t count) {
    Piece& rows = rows_[static_cast<std::size_t>(thread)];
    if (rows.bytes < count * sizeof(float)) rows = arena_.take(count * sizeof(float));
    return reinterpret_cast<float*>(rows.get());
}

void Runtime::rms_norm(const float* x, std::int64_t m, std::int64_t n, std::int64_t stride, const float* weight, float eps,
                       float* y) {
    const std::int64_t tokens = std::max<std::int64_t>(1, kSmallNorm / n);
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

std::uint8_t* Runtime::room(std::size_t bytes) {
    if (acts_.bytes < bytes) acts_ = arena_.take(bytes);
    return acts_.get();
}

bool Runtime::tiled(const Weights& w, std::int64_t m) const {
    return m >= kernels_->tiled_from && w.group % kTileColumns == 0;
}

bool Runtime::ends_in_gate(const Weights& w, std::int64_t m) const {
    return !is_dense(w) && (tiled(w, m) || m <= kernels_->gated_to) && w.n % (2 * kRows) == 0;
}

// Memory for the quantised activations, the last panel's missing tokens being zeros.
Acts Runtime::room_for(const Weights& w, std::int64_t m) {
    const bool tiled = this->tiled(w, m);
    const int width = m == 1 || tiled ? 1 : kPanel;
    const std::int64_t padded = ceil_div(m, tiled ? kPanel : width) * (tiled ? kPanel : width), groups = groups_of(w);
    const std::int64_t readable = tiled ? padded + 2 * kTileTokens : padded;  // the last tiles may reach beyond
    const std::size_t codes = static_cast<std::size_t>(readable * w.k);
    const std::size_t floats = static_cast<std::size_t>(padded * groups) * sizeof(float);
    const std::size_t scales_at = (codes + 63) / 64 * 64, offsets_at = scales_at + (floats + 63) / 64 * 64;
    std::uint8_t* data = room(offsets_at + floats);
    Acts acts{reinterpret_cast<std::int8_t*>(data), reinterpret_cast<float*>(data + scales_at),
              reinterpret_cast<std::int32_t*>(data + offsets_at), m, w.k, w.group, width};
    if (padded > m && !tiled) {
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
    if (is_dense(w)) return dense_linear(*this, call);
    const Acts acts = room_for(w, m);
    quantize_tokens({call.x, call.x_stride, acts, meaning_of_zero(w)}, call.before);
    const bool past = m <= kFewTokens && !call.gated && in_whole_lines(call) && bytes_of_y(call) >= kPastBytes;
    const LinearJob job{w, acts, call.bias, call.residual, call.residual_stride, call.y, call.y_stride, call.gated, past};
    const std::int64_t slab = tiled(w, m) ? tokens_of_slab(kTiledSlab, kTiledBytes, w.k) : tokens_of_slab(kSlab, kSlabBytes, w.k);
    const Cut cut = cut_up(w, call.gated ? blocks_of(w) / 2 : blocks_of(w), m, slab, threads());
    pool_.share(cut.tasks, [&](std::int64_t task, int thread) {
        kernels_->linear(job, cut.part(task), scratch(thread));
    });
}

void Runtime::attention(const AttentionCall& call) {
    const std::lock_guard<std::mutex> turn(one_call_);
    attention_.run(call);
}

Runtime::Rows Runtime::rows(std::size_t count) {
    Rows rows{std::unique_lock<std::mutex>(one_owner_), nullptr};
    if (between_.bytes < count * sizeof(float)) between_ = arena_.take(count * sizeof(float));
    rows.data = reinterpret_cast<float*>(between_.get());
    return rows;
}

}  // namespace nearfield
