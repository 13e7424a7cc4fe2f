// Philox4x32-10: random numbers by counter (Salmon et al., SC 2011); the words of reference/philox.py.
#pragma once

#include <array>
#include <cstdint>

namespace nearfield {

using Words = std::array<std::uint32_t, 4>;

inline Words philox4x32(Words counter, std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t first = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t second = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(second),
                   static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(first)};
        key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
    }
    return counter;
}

// In [0, 1), of 53 random bits: the key is the seed, the counter a token's position and its answer's index.
inline double uniform(std::uint64_t seed, std::uint64_t position, std::uint32_t answer) {
    const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    const Words words = philox4x32({low(position), low(position >> 32), answer, 0}, {low(seed), low(seed >> 32)});
    const std::uint64_t bits = std::uint64_t{words[0] >> 5} << 26 | words[1] >> 6;
    return static_cast<double>(bits) / 9007199254740992.0;  // 2^53
}

}  // namespace nearfield
