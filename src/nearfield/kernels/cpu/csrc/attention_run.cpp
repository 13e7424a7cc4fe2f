#include "attention_run.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace nearfield {
namespace {

constexpr std::int64_t kQueries = 128;         // queries of a task, about: each tile is read once for all of them
constexpr std::int64_t kTasksPerThread = 4;    // what is longer than its share of these is divided
constexpr std::int64_t kSharesPerThread = 2;   // as many at least, or threads would wait for those that have one
constexpr std::int64_t kSmallPrepare = 8192;   // floats of tokens that one thread prepares in about a dispatch
constexpr double kLog2E = 1.4426950408889634;
constexpr std::int64_t kSmallAttend = 1 << 18;  // multiply-adds that one thread does faster than several are told

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

void refuse(const std::string& reason) { throw std::invalid_argument("attention: " + reason); }

void check(const AttentionCall& call) {
    const KV& kv = call.kv;
    if (kv.bf16 && kv.page % 2) refuse("pages of bf16 must be of even size, not " + std::to_string(kv.page) +
                                          "; choose another page size or fp32");
    std::int64_t token = 0;
    for (std::int64_t r = 0; r < call.rows; ++r) {
        const std::int64_t* row = call.spans + 4 * r;
        const std::string name = "row " + std::to_string(r);
        if (row[0] != token || row[1] < 0 || row[2] < 0) {
            refuse(name + " is not right after the one before it: offset " + std::to_string(row[0]) + ", length " +
                   std::to_string(row[1]) + ", start " + std::to_string(row[2]));
        }
        token += row[1];
        const std::int64_t used = ceil_div(row[2] + row[1], kv.page);
        if (row[3] < 0 || row[3] > call.page_count || used > call.page_count - row[3]) {
            refuse(name + " has fewer pages than its " + std::to_string(row[2] + row[1]) + " positions need");
        }
        for (const std::int64_t* page = call.pages + row[3]; page < call.pages + row[3] + used; ++page) {
            if (*page < 0 || *page >= kv.pages) {
                refuse(name + " has page " + std::to_string(*page) + "; the cache has " + std::to_string(kv.pages));
            }
        }
    }
    if (token != call.tokens) {
        refuse("the rows have " + std::to_string(token) + " tokens and the step " + std::to_string(call.tokens));
    }
}

void grow(Piece& piece, Arena& arena, std::size_t floats) {
    const std::size_t bytes = floats * sizeof(float);
    if (piece.bytes < bytes) piece = arena.take(std::max(bytes, 2 * piece.bytes));
}

float* floats_of(const Piece& piece) { return reinterpret_cast<float*>(piece.get()); }

}  // namespace

Attention::Attention(const AttentionKernels& kernels, Pool& pool, Arena& arena)
    : kernels_(kernels), pool_(pool), arena_(arena), scratch_(static_cast<std::size_t>(pool.threads())) {}

// job(task, thread) for each task; `alone`, on the calling thread, where waking others would cost more.
template <class Job>
void Attention::each(std::int64_t tasks, bool alone, const Job& job) {
    if (!alone) return pool_.share(tasks, job);
    pool_.share(1, [&](std::int64_t, int) {
        for (std::int64_t task = 0; task < tasks; ++task) job(task, 0);
    });
}

void Attention::run(const AttentionCall& call) {
    check(call);
    if (call.tokens == 0) return;
    divide(call);
    std::int64_t seen = 0;
    for (const Block& block : blocks_) seen += block.tokens * std::min(block.spans * kSpan, block.end);
    const bool alone = 2 * seen * call.heads * call.kv.size < kSmallAttend;
    find_shares(call);
    split(call);
    find_slots(call);
    take_memory(call);
    prepare(call, alone);
    if (!shares_.empty()) {
        each(static_cast<std::int64_t>(shares_.size()) * call.kv.heads, alone,
             [&](std::int64_t task, int thread) { attend_share(call, task, thread); });
    }
    each(static_cast<std::int64_t>(tasks_.size()), alone,
         [&](std::int64_t task, int thread) { attend(call, tasks_[static_cast<std::size_t>(task)], thread); });
    if (joins_.empty()) return;
    each(static_cast<std::int64_t>(joins_.size()), alone,
         [&](std::int64_t task, int thread) { join(call, joins_[static_cast<std::size_t>(task)], thread); });
}

// Rows into blocks of tokens.
void Attention::divide(const AttentionCall& call) {
    const std::int64_t shared = call.heads / call.kv.heads, together = std::max<std::int64_t>(1, kQueries / shared);
    blocks_.clear();
    queries_ = 0;
    for (std::int64_t r = 0; r < call.rows; ++r) {
        const std::int64_t *row = call.spans + 4 * r, end = row[2] + row[1];
        for (std::int64_t first = 0; first < row[1]; first += together) {
            const std::int64_t tokens = std::min(together, row[1] - first), start = row[2] + first;
            const std::int64_t low = call.window ? std::max<std::int64_t>(0, start - call.window + 1) : 0;
            const std::int64_t span = low / kSpan, spans = ceil_div(start + tokens, kSpan) - span;
            blocks_.push_back({call.pages + row[3], row[0] + first, tokens, start, end, span, spans});
            queries_ = std::max(queries_, tokens * shared);
        }
    }
}

// What blocks see of the same pages is computed for all of them at once, so that its K and V are read once. Only from the first span on, as prefixes are shared, and where no window cuts spans.
void Attention::find_shares(const AttentionCall& call) {
    shares_.clear();
    part_floats_ = 0;
    if (call.window || blocks_.size() < 2) return;
    std::int64_t most = std::max<std::int64_t>(1, kQueries / (call.heads / call.kv.heads));
    const std::int64_t tasks = blocks_[0].spans * call.kv.heads, enough = kSharesPerThread * pool_.threads();
    while (most > 1 && ceil_div(call.tokens, most) * tasks < enough) most /= 2;
    for (std::int64_t span = 0; share_span(call, span, most); ++span) {
    }
}

// Blocks whose first span of their own is `span`, and that share it with their neighbours: whether there are any.
bool Attention::share_span(const AttentionCall& call, std::int64_t span, std::int64_t most) {
    const std::int64_t end = (span + 1) * kSpan, page = span * kSpan / call.kv.page;
    const std::int64_t pages = ceil_div(end, call.kv.page) - page;
    const auto whole = [&](const Block& block) { return block.span == span && block.start >= end; };
    bool any = false;
    for (std::size_t first = 0, last; first < blocks_.size(); first = last) {
        Block all = blocks_[first];
        for (last = first + 1; whole(all) && last < blocks_.size(); ++last) {
            const Block& next = blocks_[last];
            if (!whole(next) || all.tokens + next.tokens > most ||
                !std::equal(all.pages + page, all.pages + page + pages, next.pages + page)) {
                break;
            }
            all.tokens += next.tokens;
        }
        if (last == first + 1) continue;
        any = true;
        for (std::size_t b = first; b < last; ++b) {
            ++blocks_[b].span;
            --blocks_[b].spans;
        }
        const std::int64_t queries = all.tokens * (call.heads / call.kv.heads);
        shares_.push_back({{all.pages, all.token, all.tokens, end, end, span, 1}, first, last, part_floats_});
        part_floats_ += call.kv.heads * result_floats(call.kv, queries);
        queries_ = std::max(queries_, queries);
    }
    return any;
}

// Blocks into tasks. A block that is too long for one thread, measured by its tokens and spans, is divided by heads or
// by spans.
void Attention::split(const AttentionCall& call) {
    const KV& kv = call.kv;
    std::int64_t work = 0;
    for (const Block& block : blocks_) work += block.tokens * block.spans;
    const std::int64_t fair = work / (pool_.threads() * kTasksPerThread);
    tasks_.clear();
    joins_.clear();
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
        const Block& block = blocks_[b];
        if (pool_.threads() == 1 || block.tokens * block.spans <= fair) {
            tasks_.push_back({b, 0, kv.heads, -1, -1});
        } else if (block.spans == 1) {
            for (std::int64_t head = 0; head < kv.heads; ++head) tasks_.push_back({b, head, head + 1, -1, -1});
        } else {
            split_spans(call, b);
        }
    }
}

void Attention::split_spans(const AttentionCall& call, std::size_t b) {
    const Block& block = blocks_[b];
    const std::int64_t queries = block.tokens * (call.heads / call.kv.heads), floats = result_floats(call.kv, queries);
    const bool together = queries <= kFew && block.spans >= 2 * pool_.threads();
    const std::int64_t heads = together ? call.kv.heads : 1;
    for (std::int64_t head = 0; head < call.kv.heads; ++head) {
        joins_.push_back({b, head, head + 1, -1, part_floats_ + head * floats});
    }
    for (std::int64_t span = block.span; span < block.span + block.spans; ++span) {
        for (std::int64_t head = 0; head < call.kv.heads; head += heads, part_floats_ += heads * floats) {
            tasks_.push_back({b, head, head + heads, span, part_floats_});
        }
    }
}

void Attention::find_slots(const AttentionCall& call) {
    slots_.clear();
    for (const Block& block : blocks_) {
        for (std::int64_t at = block.start; at < block.start + block.tokens; ++at) {
            slots_.push_back(block.pages[at / call.kv.page] * call.kv.page + at % call.kv.page);
        }
    }
}

void Attention::take_memory(const AttentionCall& call) {
    grow(q_, arena_, static_cast<std::size_t>(call.tokens * call.heads * call.kv.size));
    grow(parts_, arena_, static_cast<std::size_t>(part_floats_));
    const std::int64_t heads = call.kv.heads, together = std::max(queries_, std::min(queries_, kFew) * heads);
    const std::int64_t floats = 2 * heads * result_floats(call.kv, queries_) + span_floats(call.kv, together);
    for (Piece& piece : scratch_) grow(piece, arena_, static_cast<std::size_t>(floats));
}

void Attention::prepare(const AttentionCall& call, bool alone) {
    const KV& kv = call.kv;
    const float scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(kv.size)));
    const PrepareJob job{call.qkv,    call.tokens, call.stride, call.heads, call.q_norm,   call.k_norm,
                         call.cos,    call.sin,    scale,       kv,         slots_.data(), floats_of(q_)};
    const std::int64_t fit = std::max<std::int64_t>(1, kSmallPrepare / ((call.heads + 2 * kv.heads) * kv.size));
    const std::int64_t rounds = ceil_div(ceil_div(call.tokens, fit), pool_.threads());
    const std::int64_t tokens = call.tokens <= fit ? fit : ceil_div(call.tokens, rounds * pool_.threads());
    each(ceil_div(call.tokens, tokens), alone, [&](std::int64_t task, int) {
        kernels_.prepare(job, task * tokens, std::min(call.tokens, (task + 1) * tokens));
    });
}

// Heads [head, last) of one span, to `results`.
void Attention::attend_span(const AttentionCall& call, const Block& block, std::int64_t head, std::int64_t last,
                            std::int64_t span, float* results, float* scratch) {
    const std::int64_t shared = call.heads / call.kv.heads, q_stride = call.tokens * shared * call.kv.size;
    const float* q = floats_of(q_) + head * q_stride + block.token * shared * call.kv.size;
    kernels_.span({call.kv, q, q_stride, block.pages, head, last - head, block.start, block.tokens, shared, call.window,
                   span, block.end},
                  results, scratch);
}

// Each share is a task a head.
void Attention::attend_share(const AttentionCall& call, std::int64_t task, int thread) {
    const Share& share = shares_[static_cast<std::size_t>(task / call.kv.heads)];
    const std::int64_t head = task % call.kv.heads, queries = share.block.tokens * (call.heads / call.kv.heads);
    float* results = floats_of(parts_) + share.part + head * result_floats(call.kv, queries);
    attend_span(call, share.block, head, head + 1, share.block.span, results,
                floats_of(scratch_[static_cast<std::size_t>(thread)]));
}

// What a block's total is before its own spans: empty, and the shares that it takes part in.
void Attention::begin(const AttentionCall& call, std::size_t b, std::int64_t head, const Result& total) {
    const std::int64_t shared = call.heads / call.kv.heads, width = width_of(call.kv);
    const std::int64_t queries = blocks_[b].tokens * shared;
    kernels_.clear(total, queries, width);
    for (const Share& share : shares_) {
        if (b < share.first || b >= share.last) continue;
        const std::int64_t all = share.block.tokens * shared, first = (blocks_[b].token - share.block.token) * shared;
        float* part = floats_of(parts_) + share.part + head * result_floats(call.kv, all);
        const Result results = result_at(part, call.kv, all);
        kernels_.merge(total, {results.outputs + first * width, results.largest + first, results.sums + first}, queries,
                       width);
    }
}

void Attention::attend(const AttentionCall& call, const Task& task, int thread) {
    const Block& block = blocks_[task.block];
    const std::int64_t queries = block.tokens * (call.heads / call.kv.heads), width = width_of(call.kv);
    const std::int64_t floats = result_floats(call.kv, queries), heads = task.last - task.head;
    float* totals = floats_of(scratch_[static_cast<std::size_t>(thread)]);
    float* parts = totals + heads * floats;
    float* scratch = parts + heads * floats;
    if (task.span >= 0) {
        return attend_span(call, block, task.head, task.last, task.span, floats_of(parts_) + task.part, scratch);
    }
    const auto result = [&](float* data, std::int64_t i) { return result_at(data + i * floats, call.kv, queries); };
    for (std::int64_t i = 0; i < heads; ++i) begin(call, task.block, task.head + i, result(totals, i));
    const std::int64_t step = queries <= kFew ? heads : 1;
    for (std::int64_t span = block.span; span < block.span + block.spans; ++span) {
        for (std::int64_t i = 0; i < heads; i += step) {
            attend_span(call, block, task.head + i, task.head + i + step, span, parts + i * floats, scratch);
        }
        for (std::int64_t i = 0; i < heads; ++i) kernels_.merge(result(totals, i), result(parts, i), queries, width);
    }
    for (std::int64_t i = 0; i < heads; ++i) finish(call, block, task.head + i, result(totals, i));
}

void Attention::join(const AttentionCall& call, const Task& task, int thread) {
    const Block& block = blocks_[task.block];
    const std::int64_t queries = block.tokens * (call.heads / call.kv.heads), width = width_of(call.kv);
    const Result total = result_at(floats_of(scratch_[static_cast<std::size_t>(thread)]), call.kv, queries);
    float* part = floats_of(parts_) + task.part;
    begin(call, task.block, task.head, total);
    for (std::int64_t span = 0; span < block.spans; ++span, part += call.kv.heads * result_floats(call.kv, queries)) {
        kernels_.merge(total, result_at(part, call.kv, queries), queries, width);
    }
    finish(call, block, task.head, total);
}

void Attention::finish(const AttentionCall& call, const Block& block, std::int64_t head, const Result& total) {
    const std::int64_t shared = call.heads / call.kv.heads, size = call.kv.size, width = width_of(call.kv);
    for (std::int64_t token = 0; token < block.tokens; ++token) {
        const std::int64_t first = token * shared;
        const Result own{total.outputs + first * width, total.largest + first, total.sums + first};
        kernels_.finish(own, shared, size, call.out + ((block.token + token) * call.heads + head * shared) * size);
    }
}

}  // namespace nearfield
