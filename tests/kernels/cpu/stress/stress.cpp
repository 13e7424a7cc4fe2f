// Random shapes through every instruction set, with sanitizers watching: each must give the scalar bits, and
// none may touch memory that is not its own. Built and run by scripts/sanitize_kernels.
// Usage: stress SECONDS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>

#include "choosing.hpp"
#include "pack.hpp"

using namespace nearfield;

namespace {

using Random = std::mt19937;

std::int64_t between(Random& random, std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

template <class T>
std::vector<T> integers(Random& random, std::int64_t count, std::int64_t low, std::int64_t high) {
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = static_cast<T>(between(random, low, high));
    return values;
}

std::vector<float> floats(Random& random, std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(random);
    return values;
}

// Exactly as long as the operation may read, so that the sanitizer sees one byte more.
struct Case {
    std::int64_t n, k, m, group;
    int bits;
    bool rows, zero_points, bf16, biased;
    std::vector<std::int8_t> codes;
    std::vector<float> row_scales, x, bias;
    std::vector<std::uint16_t> scales;
    std::vector<std::uint8_t> zeros;

    explicit Case(Random& random) {
        group = std::int64_t{32} << between(random, 0, 2);
        k = group * between(random, 1, 9);
        n = between(random, 1, 130);
        m = between(random, 0, 3) ? between(random, 0, 40) : between(random, 250, 530);
        rows = between(random, 0, 2) == 0;
        bits = rows || between(random, 0, 1) ? 8 : 4;
        zero_points = bits == 4 && between(random, 0, 1);
        bf16 = between(random, 0, 1);
        biased = between(random, 0, 1);
        codes = integers<std::int8_t>(random, n * k * bits / 8, -128, 127);
        row_scales = floats(random, n);
        scales = integers<std::uint16_t>(random, n * (k / group), 0x2000, 0x3bff);
        zeros = integers<std::uint8_t>(random, n * (k / group), 0, 15);
        x = floats(random, m * k);
        bias = floats(random, n);
    }

    std::vector<float> run(Runtime& runtime) const {
        const auto* plain = reinterpret_cast<const std::uint8_t*>(codes.data());
        const PackedWeights weights =
            rows ? pack_rows(runtime, codes.data(), row_scales.data(), n, k)
                 : pack_groups(runtime, bits, plain, scales.data(), bf16 ? Scale::bf16 : Scale::f16,
                               zero_points ? zeros.data() : nullptr, n, k, group);
        std::vector<float> y(static_cast<std::size_t>(m * n));
        runtime.linear({&weights.view, x.data(), m, k, {}, biased ? bias.data() : nullptr, nullptr, 0, y.data(), n});
        return y;
    }
};

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 10.0;
    Random random(1);
    std::vector<std::unique_ptr<Runtime>> runtimes;
    runtimes.push_back(std::make_unique<Runtime>(1, "scalar"));
    for (const std::string& isa : supported_isas()) {
        for (int threads : {1, 2, 3}) runtimes.push_back(std::make_unique<Runtime>(threads, isa));
    }
    int cases = 0;
    const auto start = std::chrono::steady_clock::now();
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
        const Case one(random);
        const std::vector<float> expected = one.run(*runtimes[0]);
        for (const auto& runtime : runtimes) {
            const std::vector<float> y = one.run(*runtime);
            if (!y.empty() && std::memcmp(y.data(), expected.data(), y.size() * sizeof(float))) {
                std::printf("other bits: %s, %d threads, m=%d n=%d k=%d group=%d bits=%d rows=%d zeros=%d\n",
                            runtime->isa(), runtime->threads(), int(one.m), int(one.n), int(one.k), int(one.group),
                            one.bits, one.rows, one.zero_points);
                return 1;
            }
        }
        if (!choosing::tokens_agree(random, runtimes) || !choosing::codes_agree(random, runtimes)) return 1;
        ++cases;
    }
    std::printf("%d cases, the same bits on %d runtimes\n", cases, int(runtimes.size()));
    return cases ? 0 : 1;
}
