#include "limits.hpp"

#include <atomic>
#include <stdexcept>

namespace nearfield {

std::uint64_t read_all(Runtime& runtime, const std::uint8_t* data, std::size_t bytes) {
    std::atomic<std::uint64_t> total{0};
    const std::size_t share = bytes / static_cast<std::size_t>(runtime.threads()) / 4096 * 4096;
    runtime.pool().run([&](int thread) {
        total += runtime.kernels().read(data + static_cast<std::size_t>(thread) * share, share);
    });
    return total;
}

double multiply_all(Runtime& runtime, const std::string& kind, std::int64_t rounds) {
    const Kernels& kernels = runtime.kernels();
    double (*mac)(std::int64_t) = nullptr;
    if (kind == "int8") {
        mac = kernels.mac_int8;
    } else if (kind == "bf16") {
        mac = kernels.mac_bf16;
    } else if (kind == "fp32") {
        mac = kernels.mac_fp32;
    } else {
        throw std::invalid_argument("kind '" + kind + "' is not int8, bf16 or fp32");
    }
    if (!mac) return 0.0;
    runtime.pool().run([&](int) { mac(rounds); });
    return static_cast<double>(runtime.threads()) * mac(1) * static_cast<double>(rounds);
}

}  // namespace nearfield
