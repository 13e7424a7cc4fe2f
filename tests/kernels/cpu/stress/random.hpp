// Random numbers and vectors for the stress test's cases.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

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

}  // namespace
