// Sixteen floats at once, in plain C++: vec_avx512.hpp says what each operation is.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "scales.hpp"

namespace nearfield {
namespace {

struct Vec {
    float v[16];
};

constexpr int kTogether = 2, kColumns = 1;
constexpr int kTogetherCopied = 2, kColumnsCopied = 1;
constexpr int kTogetherHalves = 2, kColumnsHalves = 1, kTogetherPairs = 2;

template <class Op>
inline Vec each(const Op& op) {
    Vec result;
    for (int i = 0; i < 16; ++i) result.v[i] = op(i);
    return result;
}

inline Vec all(float x) {
    return each([=](int) { return x; });
}
inline Vec zeros() { return all(0.0f); }

inline Vec load(const float* p, std::int64_t n) {
    return each([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline Vec load(const float* p) { return load(p, 16); }
inline void store(float* p, Vec a, std::int64_t n) {
    for (int i = 0; i < 16 && i < n; ++i) p[i] = a.v[i];
}
inline void store(float* p, Vec a) { store(p, a, 16); }

inline Vec load(const std::uint16_t* p, std::int64_t n) {
    return each([=](int i) { return i < n ? float_of_bf16(p[i]) : 0.0f; });
}
inline Vec load(const std::uint16_t* p) { return load(p, 16); }

inline void load_halves(const std::uint16_t* p, Vec& upper, Vec& lower) {
    upper = each([=](int i) { return float_of_bf16(p[2 * i + 1]); });
    lower = each([=](int i) { return float_of_bf16(p[2 * i]); });
}

inline std::uint16_t narrow(float a) {
    std::uint32_t bits;
    std::memcpy(&bits, &a, sizeof bits);
    if (!(a == a)) return 0x7fc0;
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline Vec rounded(Vec a) {
    return each([&](int i) { return float_of_bf16(narrow(a.v[i])); });
}
inline void store(std::uint16_t* p, Vec a, std::int64_t n) {
    for (int i = 0; i < 16 && i < n; ++i) p[i] = narrow(a.v[i]);
}
inline void store(std::uint16_t* p, Vec a) { store(p, a, 16); }
inline void store_apart(std::uint16_t* p, Vec a, std::int64_t n) {
    for (int i = 0; i < 16 && i < n; ++i) p[2 * i] = narrow(a.v[i]);
}

inline void store(std::int8_t* p, Vec a, std::int64_t n) {
    for (int i = 0; i < 16 && i < n; ++i) p[i] = static_cast<std::int8_t>(a.v[i]);
}

inline Vec operator+(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec operator-(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec operator*(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec operator/(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return each([&](int i) { return fused_multiply_add(a.v[i], b.v[i], c.v[i]); });
}
inline void accumulate(Vec& sum, Vec a, Vec b) { sum = fma(a, b, sum); }
inline Vec root(Vec a) {
    return each([&](int i) { return std::sqrt(a.v[i]); });
}
inline Vec least(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec greatest(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec where_less(Vec a, Vec b, Vec x, Vec y) {
    return each([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; });
}
inline Vec one_nan(Vec a) {
    return each([&](int i) { return a.v[i] == a.v[i] ? a.v[i] : __builtin_nanf(""); });
}
inline Vec lanes(Vec a, std::int64_t from, std::int64_t to, Vec other) {
    return each([&](int i) { return i >= from && i < to ? a.v[i] : other.v[i]; });
}

inline Vec power_of_two(Vec n) {
    return each([&](int i) {
        // What is not a number in range may become anything: the caller multiplies NaN by it.
        const float whole = n.v[i] >= -126.0f && n.v[i] <= 127.0f ? n.v[i] : 0.0f;
        const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(whole) + 127) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        return power;
    });
}
inline Vec scale_unless_less(Vec a, Vec b, Vec p, Vec n) { return where_less(a, b, zeros(), p * power_of_two(n)); }

inline float sum(Vec a) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
    }
    return a.v[0];
}
inline float largest(Vec a) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    }
    return a.v[0];
}

struct Sums {
    double v[16];
};

inline Sums no_sums() { return {}; }
inline void add(Sums& sums, Vec a) {
    for (int i = 0; i < 16; ++i) sums.v[i] += static_cast<double>(a.v[i]);
}
inline double total(Sums sums) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) sums.v[i] += sums.v[i + half];
    }
    return sums.v[0];
}

}  // namespace
}  // namespace nearfield
