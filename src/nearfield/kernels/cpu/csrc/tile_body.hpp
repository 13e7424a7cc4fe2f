// Where a tile's K and V are read from, over any Vec: in place, or from scratch in the same layout. A cache of
// another format is opened here.
#pragma once

#include "attention.hpp"

namespace nearfield {
namespace {

constexpr int kParts = kTile / 16;
constexpr std::size_t kLine = 64;

// A tile in parts of 16 keys: k[part] + dimension * k_stride are 16 keys side by side, v[part] + key * v_stride the
// dimensions of one. Of halves, rows are pairs of dimensions or of keys, in turn.
template <class T>
struct Tile {
    const T* k[kParts];
    const T* v[kParts];
    std::int64_t k_stride, v_stride;
};

// What to ask for while a tile is attended: as much of the next one, in quarters.
template <class T>
struct Ahead {
    const T* k[kParts];
    const T* v[kParts];
};

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// Numbers of K and V of one head in one page.
inline std::int64_t head_numbers(const KV& kv) { return kv.size * kv.page; }

inline std::int64_t page_start(const SpanJob& job, std::int64_t position) {
    return (job.pages[position / job.kv.page] * job.kv.heads + job.head) * head_numbers(job.kv);
}

// The tile that begins at `start`, of the first head, in the cache: pages and head size are multiples of 16. Parts
// beyond the last key are the one that has it.
template <class T>
inline Tile<T> in_place(const SpanJob& job, std::int64_t start) {
    const std::int64_t page = job.kv.page, size = job.kv.size, across = sizeof(T) == 2 ? 2 : 1;
    Tile<T> tile;
    tile.k_stride = page * across;
    tile.v_stride = size * across;
    for (int part = 0; part < kParts; ++part) {
        const std::int64_t wanted = start + 16 * part, at = wanted < job.end ? wanted : (job.end - 1) / 16 * 16;
        tile.k[part] = static_cast<const T*>(job.kv.k) + page_start(job, at) + at % page * across;
        tile.v[part] = static_cast<const T*>(job.kv.v) + page_start(job, at) + at % page * size;
    }
    return tile;
}

template <class T>
inline Tile<T> of_head(const SpanJob& job, const Tile<T>& first, std::int64_t head) {
    Tile<T> tile = first;
    for (int part = 0; part < kParts; ++part) {
        tile.k[part] += head * head_numbers(job.kv);
        tile.v[part] += head * head_numbers(job.kv);
    }
    return tile;
}

// Goes through all heads of a tile in the order of their addresses, a quarter of a head at a time: a page holds one
// quarter (16 positions), two, or all four. In pages of other sizes what is asked for belongs to other tiles.
class Walk {
public:
    explicit Walk(const SpanJob& job)
        : heads_(job.heads),
          numbers_(head_numbers(job.kv)),
          each_(job.kv.page == 16 ? 1 : job.kv.page == 32 ? 2 : kParts) {}

    template <class T>
    Ahead<T> next(const Tile<T>& first) {
        Ahead<T> ahead;
        for (int quarter = 0; quarter < kParts; ++quarter) {
            ahead.k[quarter] = first.k[part_] + head_ * numbers_ + inside_ * (numbers_ / each_);
            ahead.v[quarter] = first.v[part_ + inside_] + head_ * numbers_;
            if (++inside_ < each_) continue;
            inside_ = 0;
            if (++head_ < heads_) continue;
            head_ = 0;
            part_ += each_;
        }
        return ahead;
    }

private:
    std::int64_t heads_, numbers_;
    int each_, part_ = 0, inside_ = 0;
    std::int64_t head_ = 0;
};

// Two rows of halves in turn, the first `n` of 16, and zeros after them.
inline void open_pair(const std::uint16_t* from, std::int64_t n, Vec& first, Vec& second) {
    if (n >= 16) return load_halves(from, second, first);
    std::uint16_t some[32] = {};
    for (std::int64_t i = 0; i < 2 * n; ++i) some[i] = from[i];
    load_halves(some, second, first);
}

// Positions [at, at + n) of a tile, all of one page and one part, to keys [size, kTile] and values [kTile, width].
inline void copy_run(const SpanJob& job, std::int64_t at, std::int64_t n, const float* k, const float* v,
                     float* keys, float* values) {
    const std::int64_t page = job.kv.page, size = job.kv.size, width = width_of(job.kv), place = at % page;
    for (std::int64_t i = 0; i < size; ++i) store(keys + i * kTile, load(k + i * page + place, n), n);
    for (std::int64_t key = 0; key < n; ++key) {
        const float* row = v + (place + key) * size;
        for (std::int64_t i = 0; i < size; i += 16) store(values + key * width + i, load(row + i, size - i));
    }
}

inline void copy_run(const SpanJob& job, std::int64_t at, std::int64_t n, const std::uint16_t* k, const std::uint16_t* v,
                     float* keys, float* values) {
    const std::int64_t page = job.kv.page, size = job.kv.size, width = width_of(job.kv), place = at % page;
    for (std::int64_t i = 0; i < size; i += 2) {
        Vec first, second;
        open_pair(k + i * page + 2 * place, n, first, second);
        store(keys + i * kTile, first, n);
        store(keys + (i + 1) * kTile, second, n);
    }
    for (std::int64_t key = place % 2 ? -1 : 0; key < n; key += 2) {  // a key before or after is a row of its own tile
        for (std::int64_t i = 0; i < size; i += 16) {
            Vec first, second;
            open_pair(v + (place + key) * size + 2 * i, size - i, first, second);
            if (key >= 0) store(values + key * width + i, first);
            if (key + 1 < n) store(values + (key + 1) * width + i, second);
        }
    }
}

// The same tile copied to scratch [kTile * (size + width)] in fp32.
template <class T>
inline void copied(const SpanJob& job, std::int64_t low, std::int64_t high, float* scratch, Tile<float>& tile) {
    const std::int64_t page = job.kv.page, size = job.kv.size, width = width_of(job.kv);
    float* values = scratch + kTile * size;
    tile.k_stride = kTile;
    tile.v_stride = width;
    for (int part = 0; part < kParts; ++part) {
        tile.k[part] = scratch + part * 16;
        tile.v[part] = values + part * 16 * width;
    }
    for (std::int64_t at = low, n; at < high; at += n) {
        n = smaller(high - at, smaller(page - at % page, 16 - at % 16));
        const std::int64_t start = page_start(job, at);
        copy_run(job, at, n, static_cast<const T*>(job.kv.k) + start, static_cast<const T*>(job.kv.v) + start,
                 scratch + at % kTile, values + at % kTile * width);
    }
}

}  // namespace
}  // namespace nearfield
