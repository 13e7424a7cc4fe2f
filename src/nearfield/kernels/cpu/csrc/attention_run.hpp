// Attention of a whole step: what is checked, how it is divided among threads, and the memory between its stages.
#pragma once

#include <vector>

#include "attention.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace nearfield {

// As PrepareJob; the rows of the step are end to end. spans [rows, 4]: offset, length, start, first of its `pages`.
// window: the positions a token sees, itself included; 0: all. out [tokens, heads * size].
struct AttentionCall {
    const float* qkv;
    std::int64_t tokens, stride, heads;
    HeadNorm q_norm, k_norm;
    const float* cos;
    const float* sin;
    KV kv;
    std::int64_t window;
    const std::int64_t* spans;
    std::int64_t rows;
    const std::int64_t* pages;
    std::int64_t page_count;
    float* out;
};

// One call at a time: its owner sees to that.
class Attention {
public:
    Attention(const AttentionKernels& kernels, Pool& pool, Arena& arena);

    // Throws std::invalid_argument where rows, pages or shapes do not fit.
    void run(const AttentionCall& call);

private:
    // Tokens of one row that attend together. They see `spans` spans from `span` on; positions before `end` have pages.
    struct Block {
        const std::int64_t* pages;
        std::int64_t token, tokens, start, end, span, spans;
    };
    // One span that blocks [first, last), end to end in the step, see whole and in the same pages: `block` is all their
    // tokens and that span. Results of all heads go to `part`.
    struct Share {
        Block block;
        std::size_t first, last;
        std::int64_t part;
    };
    // Heads [head, last) of K and V of a block: all spans (-1), or one, whose results go to `part` (in floats).
    struct Task {
        std::size_t block;
        std::int64_t head, last, span, part;
    };

    void divide(const AttentionCall& call);
    void find_shares(const AttentionCall& call);
    bool share_span(const AttentionCall& call, std::int64_t span, std::int64_t most);
    void split(const AttentionCall& call);
    void split_spans(const AttentionCall& call, std::size_t block);
    void find_slots(const AttentionCall& call);
    void take_memory(const AttentionCall& call);
    void prepare(const AttentionCall& call, bool alone);
    void attend_share(const AttentionCall& call, std::int64_t task, int thread);
    void attend(const AttentionCall& call, const Task& task, int thread);
    void join(const AttentionCall& call, const Task& task, int thread);
    void attend_span(const AttentionCall& call, const Block& block, std::int64_t head, std::int64_t last,
                     std::int64_t span, float* results, float* scratch);
    void begin(const AttentionCall& call, std::size_t block, std::int64_t head, const Result& total);
    void finish(const AttentionCall& call, const Block& block, std::int64_t head, const Result& total);
    template <class Job>
    void each(std::int64_t tasks, bool alone, const Job& job);

    const AttentionKernels& kernels_;
    Pool& pool_;
    Arena& arena_;
    std::vector<Block> blocks_;
    std::vector<Share> shares_;  // by ascending span
    std::vector<Task> tasks_, joins_;  // joins: blocks whose spans were tasks of their own, by their first part
    std::vector<std::int64_t> slots_;
    std::int64_t part_floats_ = 0, queries_ = 0;  // floats of all parts; the most queries of a block or a share
    Piece q_, parts_;
    std::vector<Piece> scratch_;  // one piece a thread
};

}  // namespace nearfield
