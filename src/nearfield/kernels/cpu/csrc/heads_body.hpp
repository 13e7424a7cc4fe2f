// What happens to a token's heads before it attends, over any Vec: norm, rotation, scale, and K and V to the cache.
#pragma once

#include <cstring>

#include "attention.hpp"

namespace nearfield {
namespace {

// One head of Q or K, normalised and rotated, to out [size].
inline void turn(const PrepareJob& job, std::int64_t token, const float* x, const HeadNorm& norm, float* out) {
    const std::int64_t half = job.kv.size / 2;
    const float* cos = job.cos + token * half;
    const float* sin = job.sin + token * half;
    alignas(64) float normal[kMaxHead];
    if (norm.weight) {
        normalise(x, norm.weight, norm.eps, job.kv.size, normal);
        x = normal;
    }
    for (std::int64_t i = 0; i < half; i += 16) {
        const std::int64_t n = half - i;
        const Vec low = load(x + i, n), high = load(x + half + i, n);
        const Vec c = load(cos + i, n), s = load(sin + i, n);
        store(out + i, fma(low, c, all(-1.0f) * (high * s)), n);
        store(out + half + i, fma(high, c, low * s), n);
    }
}

// What is so small that a product of two might be subnormal becomes zero.
inline Vec without_tiny(Vec x) { return where_less(greatest(x, zeros() - x), all(0x1p-50f), zeros(), x); }

// One head's K and V to a place in its page, where K lies transposed.
inline void store_head(const KV& kv, std::int64_t place, const float* k, const float* v, float* keys, float* values) {
    for (std::int64_t i = 0; i < kv.size; ++i) keys[i * kv.page + place] = k[i];
    for (std::int64_t i = 0; i < kv.size; i += 16) store(values + place * kv.size + i, load(v + i, kv.size - i), kv.size - i);
}

inline void store_head(const KV& kv, std::int64_t place, const float* k, const float* v, std::uint16_t* keys,
                       std::uint16_t* values) {
    std::uint16_t rounded[kMaxHead];
    values += place / 2 * 2 * kv.size + place % 2;
    for (std::int64_t i = 0; i < kv.size; i += 16) {
        store(rounded + i, without_tiny(load(k + i, kv.size - i)), kv.size - i);
        store_apart(values + 2 * i, without_tiny(load(v + i, kv.size - i)), kv.size - i);
    }
    keys += 2 * place;
    for (std::int64_t i = 0; i < kv.size; i += 2) std::memcpy(keys + i * kv.page, rounded + i, 2 * sizeof *rounded);
}

template <class T>
inline void store_head(const PrepareJob& job, std::int64_t token, std::int64_t head, const float* k, const float* v) {
    const KV& kv = job.kv;
    const std::int64_t page = job.slots[token] / kv.page, at = (page * kv.heads + head) * kv.size * kv.page;
    store_head(kv, job.slots[token] % kv.page, k, v, static_cast<T*>(kv.k) + at, static_cast<T*>(kv.v) + at);
}

void prepare(const PrepareJob& job, std::int64_t first, std::int64_t last) {
    const std::int64_t size = job.kv.size, shared = job.heads / job.kv.heads;
    alignas(64) float turned[kMaxHead];
    for (std::int64_t token = first; token < last; ++token) {
        const float* x = job.qkv + token * job.stride;
        for (std::int64_t h = 0; h < job.heads; ++h, x += size) {
            float* q = job.q + ((h / shared * job.tokens + token) * shared + h % shared) * size;
            turn(job, token, x, job.q_norm, turned);
            for (std::int64_t i = 0; i < size; i += 16) {
                const Vec scaled = load(turned + i, size - i) * all(job.scale);
                store(q + i, job.kv.bf16 ? rounded(without_tiny(scaled)) : scaled, size - i);
            }
        }
        for (std::int64_t g = 0; g < job.kv.heads; ++g, x += size) {
            const float* v = x + job.kv.heads * size;
            turn(job, token, x, job.k_norm, turned);
            if (job.kv.bf16) {
                store_head<std::uint16_t>(job, token, g, turned, v);
            } else {
                store_head<float>(job, token, g, turned, v);
            }
        }
    }
}

}  // namespace
}  // namespace nearfield
