// Where a tile's K and V are read from, over any Vec: in place, or from scratch in the same layout. A cache of
// another format is opened here.
#pragma once

#include "attention.hpp"

namespace nearfield {
namespace {

constexpr int kParts = kTile / 16;

// A tile in parts of 16 keys: k[part] + dimension * k_stride are 16 keys side by side, v[part] + key * v_stride the
// dimensions of one. Only the parts that have a key were set.
template <class T>
struct Tile {
    const T* k[kParts];
    const T* v[kParts];
    std::int64_t k_stride, v_stride;
};

// Numbers of K and V before those of one head in one page.
inline std::int64_t page_start(const SpanJob& job, std::int64_t position) {
    return (job.pages[position / job.kv.page] * job.kv.heads + job.head) * job.kv.size * job.kv.page;
}

// The tile of positions [low, high), in the cache: pages of a multiple of 16, heads of a multiple of 16.
template <class T>
inline void in_place(const SpanJob& job, std::int64_t low, std::int64_t high, Tile<T>& tile) {
    const std::int64_t page = job.kv.page, size = job.kv.size;
    tile.k_stride = page;
    tile.v_stride = size;
    for (std::int64_t at = low / 16 * 16; at < high; at += 16) {
        const std::int64_t start = page_start(job, at), part = at % kTile / 16;
        tile.k[part] = static_cast<const T*>(job.kv.k) + start + at % page;
        tile.v[part] = static_cast<const T*>(job.kv.v) + start + at % page * size;
    }
}

// The same tile copied to scratch [kTile * (size + width)] in fp32.
template <class T>
inline void copied(const SpanJob& job, std::int64_t low, std::int64_t high, float* scratch, Tile<float>& tile) {
    const std::int64_t page = job.kv.page, size = job.kv.size, width = width_of(job.kv);
    float* values = scratch + kTile * size;
    tile.k_stride = 16;
    tile.v_stride = width;
    for (int part = 0; part < kParts; ++part) {
        tile.k[part] = scratch + part * 16 * size;
        tile.v[part] = values + part * 16 * width;
    }
    for (std::int64_t at = low, n; at < high; at += n) {
        const std::int64_t place = at % page, lane = at % 16, part = at % kTile / 16;
        n = page - place < 16 - lane ? page - place : 16 - lane;
        if (n > high - at) n = high - at;
        const T* k = static_cast<const T*>(job.kv.k) + page_start(job, at) + place;
        const T* v = static_cast<const T*>(job.kv.v) + page_start(job, at) + place * size;
        float* keys = scratch + part * 16 * size + lane;
        for (std::int64_t i = 0; i < size; ++i) store(keys + i * 16, load(k + i * page, n), n);
        for (std::int64_t key = 0; key < n; ++key) {
            float* out = values + (at % kTile + key) * width;
            for (std::int64_t i = 0; i < size; i += 16) store(out + i, load(v + key * size + i, size - i));
        }
    }
}

}  // namespace
}  // namespace nearfield
