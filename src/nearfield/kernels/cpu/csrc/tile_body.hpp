// Where a tile's K and V are read from, over any Vec: in place, or from scratch in the same layout. A cache of
// another format is opened here.
#pragma once

#include "attention.hpp"

namespace nearfield {
namespace {

constexpr int kParts = kTile / 16;
constexpr std::size_t kLine = 64;

// A tile in parts of 16 keys: k[part] + dimension * k_stride are 16 keys side by side, v[part] + key * v_stride the
// dimensions of one.
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

// Numbers of K and V of one head in one page.
inline std::int64_t head_numbers(const KV& kv) { return kv.size * kv.page; }

inline std::int64_t page_start(const SpanJob& job, std::int64_t position) {
    return (job.pages[position / job.kv.page] * job.kv.heads + job.head) * head_numbers(job.kv);
}

// The tile that begins at `start`, of the first head, in the cache: pages and head size are multiples of 16. Parts
// beyond the last key are the one that has it.
template <class T>
inline Tile<T> in_place(const SpanJob& job, std::int64_t start) {
    const std::int64_t page = job.kv.page, size = job.kv.size;
    Tile<T> tile;
    tile.k_stride = page;
    tile.v_stride = size;
    for (int part = 0; part < kParts; ++part) {
        const std::int64_t wanted = start + 16 * part, at = wanted < job.end ? wanted : (job.end - 1) / 16 * 16;
        tile.k[part] = static_cast<const T*>(job.kv.k) + page_start(job, at) + at % page;
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
        const std::int64_t place = at % page, lane = at % 16, part = at % kTile / 16;
        n = page - place < 16 - lane ? page - place : 16 - lane;
        if (n > high - at) n = high - at;
        const T* k = static_cast<const T*>(job.kv.k) + page_start(job, at) + place;
        const T* v = static_cast<const T*>(job.kv.v) + page_start(job, at) + place * size;
        float* keys = scratch + part * 16 + lane;
        if (n == 16 && size == width) {  // most tiles: no lane is left out, so that no mask is made
            for (std::int64_t i = 0; i < size; ++i) store(keys + i * kTile, load(k + i * page));
            for (std::int64_t i = 0; i < 16 * size; i += 16) store(values + at % kTile * width + i, load(v + i));
            continue;
        }
        for (std::int64_t i = 0; i < size; ++i) store(keys + i * kTile, load(k + i * page, n), n);
        for (std::int64_t key = 0; key < n; ++key) {
            float* out = values + (at % kTile + key) * width;
            for (std::int64_t i = 0; i < size; i += 16) store(out + i, load(v + key * size + i, size - i));
        }
    }
}

}  // namespace
}  // namespace nearfield
