// Random shapes through every instruction set, with sanitizers watching: each must give the scalar bits, and
// none may touch memory that is not its own. Built and run by scripts/sanitize_kernels.
// Usage: stress SECONDS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>

#include "attention_case.hpp"
#include "choosing.hpp"
#include "dense_case.hpp"
#include "pack.hpp"
#include "random.hpp"

using namespace nearfield;

namespace {

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

// Whether dense weights give the same bits wherever the profile is the same, and rows are found again.
bool dense_agrees(Random& random, const std::vector<std::unique_ptr<Runtime>>& runtimes) {
    const DenseCase one(random);
    std::map<std::string, std::vector<float>> expected;
    for (const auto& runtime : runtimes) {
        if (!one.finds_rows(*runtime)) return false;
        for (const DenseKernels* kernels : one.kernels(*runtime)) {
            if (runtime->threads() > 1) break;
            const std::vector<float> alone = one.run_alone(*kernels);
            const std::vector<float>& first = expected.emplace(kernels->profile, alone).first->second;
            if (!same_bits(first, alone)) return false;
        }
        const char* profile = dense_kernels(runtime->kernels(), one.codes).profile;
        if (!same_bits(expected.at(profile), one.run(*runtime))) return false;
    }
    return true;
}

bool attention_agrees(Random& random, const std::vector<std::unique_ptr<Runtime>>& runtimes) {
    const AttentionCase one(random);
    const std::vector<float> expected = one.run(*runtimes[0]);
    for (const auto& runtime : runtimes) {
        if (same_bits(expected, one.run(*runtime))) continue;
        std::printf("other bits: %s, %d threads, ", runtime->isa(), runtime->threads());
        one.print();
        return false;
    }
    return true;
}

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
        if (!dense_agrees(random, runtimes)) {
            std::printf("other bits of dense weights in case %d\n", cases);
            return 1;
        }
        if (!attention_agrees(random, runtimes)) return 1;
        ++cases;
    }
    std::printf("%d cases, the same bits on %d runtimes\n", cases, int(runtimes.size()));
    return cases ? 0 : 1;
}
