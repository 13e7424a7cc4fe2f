// A random step of attention: a cache of NaN, in it the beginnings of some sequences, and what comes next of each. Some
// have their beginning in the pages of the one before.
#pragma once

#include <algorithm>
#include <cstdio>
#include <limits>
#include <numeric>

#include "random.hpp"
#include "runtime.hpp"

namespace {

// Exactly as long as the operation may read, so that the sanitizer sees one number more.
struct AttentionCase {
    std::int64_t size, heads, shared, page, window, cache_pages, before = 0, tokens = 0;
    bool bf16, normed;
    std::vector<std::int64_t> starts, written, begins, lengths, pages;
    std::vector<float> first, next, norm, cos, sin;

    explicit AttentionCase(Random& random) {
        size = between(random, 0, 2) ? 16 * between(random, 1, 5) : 2 * between(random, 1, 40);
        heads = between(random, 1, 3);
        shared = between(random, 0, 3) ? between(random, 1, 4) : between(random, 5, 19);
        window = between(random, 0, 1) ? between(random, 1, 150) : 0;
        bf16 = between(random, 0, 1);
        page = between(random, 0, 2) ? std::int64_t{16} << between(random, 0, 2) : between(random, 1, 20);
        if (bf16) page += page % 2;
        normed = between(random, 0, 1);
        const std::int64_t rows = between(random, 1, 4);
        for (std::int64_t row = 0; row < rows; ++row) {
            const bool same = row > 0 && between(random, 0, 1);
            std::int64_t start = between(random, 0, 5) ? between(random, 0, 70) : between(random, 505, 580);
            if (same) start = starts.back() / page * page;
            const std::int64_t length = between(random, 0, 1) ? 1 : between(random, 0, 40);
            starts.push_back(start);
            written.push_back(same ? 0 : start);
            lengths.push_back(length);
            begins.push_back(static_cast<std::int64_t>(pages.size()));
            for (std::int64_t at = 0; at < start + length; at += page) pages.push_back(0);
            before += written.back();
            tokens += length;
        }
        cache_pages = static_cast<std::int64_t>(pages.size()) + 1;
        std::iota(pages.begin(), pages.end(), 1);
        std::shuffle(pages.begin(), pages.end(), random);
        for (std::size_t row = 1; row < starts.size(); ++row) {
            if (written[row] == starts[row]) continue;
            std::copy_n(pages.begin() + begins[row - 1], starts[row] / page, pages.begin() + begins[row]);
        }
        first = floats(random, before * columns());
        next = floats(random, tokens * columns());
        norm = floats(random, size);
        cos = floats(random, std::max(before, tokens) * size / 2);
        sin = floats(random, std::max(before, tokens) * size / 2);
    }

    std::int64_t columns() const { return (heads * shared + 2 * heads) * size; }

    std::vector<float> run(nearfield::Runtime& runtime) const {
        const std::size_t numbers = static_cast<std::size_t>(cache_pages * heads * size * page);
        std::vector<float> cache(bf16 ? 0 : 2 * numbers, std::numeric_limits<float>::quiet_NaN());
        std::vector<std::uint16_t> narrow(bf16 ? 2 * numbers : 0, 0x7fc0);
        nearfield::KV kv{narrow.data(), narrow.data() + numbers, true, cache_pages, heads, size, page};
        if (!bf16) kv = {cache.data(), cache.data() + numbers, false, cache_pages, heads, size, page};
        attend(runtime, kv, first, before, written, std::vector<std::int64_t>(starts.size(), 0));
        return attend(runtime, kv, next, tokens, lengths, starts);
    }

    std::vector<float> attend(nearfield::Runtime& runtime, const nearfield::KV& kv, const std::vector<float>& qkv,
                              std::int64_t count, const std::vector<std::int64_t>& sizes,
                              const std::vector<std::int64_t>& from) const {
        std::vector<std::int64_t> spans;
        std::int64_t offset = 0;
        for (std::size_t row = 0; row < sizes.size(); ++row) {
            spans.insert(spans.end(), {offset, sizes[row], from[row], begins[row]});
            offset += sizes[row];
        }
        const nearfield::HeadNorm own{normed ? norm.data() : nullptr, 1e-5f};
        std::vector<float> out(static_cast<std::size_t>(count * heads * shared * size));
        runtime.attention({qkv.data(), count, columns(), heads * shared, own, own, cos.data(), sin.data(), kv, window,
                           spans.data(), static_cast<std::int64_t>(sizes.size()), pages.data(),
                           static_cast<std::int64_t>(pages.size()), out.data()});
        return out;
    }

    void print() const {
        std::printf("attention size=%d heads=%d shared=%d page=%d window=%d bf16=%d normed=%d tokens=%d\n", int(size),
                    int(heads), int(shared), int(page), int(window), bf16, normed, int(tokens));
    }
};

}  // namespace
