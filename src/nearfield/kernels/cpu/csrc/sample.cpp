// Every logit is looked at in spans of 64 by the float kernels; the rest is a few numbers a span. The best
// tokens are found without sorting all: the spans' maxima tell above which logit there are enough of them.
#include "sample.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "philox.hpp"

namespace nearfield {
namespace {

constexpr std::int64_t kCandidates = 512;  // best tokens that are tried before more of them
constexpr std::int64_t kGrowth = 4;
constexpr double kMinTemperature = 1e-5;

// A number that orders like x, whatever x is, so that sorting is safe even with NaN.
std::uint32_t rank_of(float x) {
    x += 0.0f;  // of the two zeros, the positive
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Larger is better: by logit, then by the lower id.
std::uint64_t key_of(std::uint32_t rank, std::int64_t id) {
    return std::uint64_t{rank} << 32 | (0xffffffffu - static_cast<std::uint32_t>(id));
}

std::int64_t id_of(std::uint64_t key) { return 0xffffffffu - static_cast<std::uint32_t>(key); }

struct Crossing {
    std::int64_t at;
    double before;  // the sum of what comes before it
};

// Where the sum of weights, in this order, first exceeds `target`; where rounding lets none, the last with weight.
template <class T>
Crossing crossing(const T* weights, std::int64_t n, double target) {
    Crossing found{0, 0.0};
    double sum = 0.0;
    for (std::int64_t i = 0; i < n && !(sum > target); ++i) {
        if (weights[i] > 0) found = {i, sum};
        sum += static_cast<double>(weights[i]);
    }
    return found;
}

template <class T>
double sum_of(const T* weights, std::int64_t n) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(weights[i]);
    return sum;
}

bool has_filter(const SampleRow& row) { return row.top_k > 0 || row.top_p < 1.0 || row.min_p > 0.0; }

// Chooses for one row at a time, in memory taken beforehand: threads must not throw.
class Chooser {
public:
    Chooser(const Floats& floats, std::int64_t v, bool filters)
        : floats_(floats), v_(v), maxima_(spans(v)), masses_(spans(v)) {
        if (!filters) return;
        const auto room = static_cast<std::size_t>(v);
        ranks_.reserve(spans(v));
        keys_.reserve(room);
        values_.reserve(room);
        weights_.reserve(room);
    }

    std::int64_t choose(const float* logits, const SampleRow& row) {
        x_ = logits;
        floats_.maxima(x_, v_, maxima_.data());
        float peak = -INFINITY;
        for (const float most : maxima_) {
            if (std::isnan(most)) return -1;
            peak = most > peak ? most : peak;
        }
        if (peak == -INFINITY) return -1;
        if (row.temperature == 0.0) return first(peak);
        how_ = {peak, static_cast<float>(std::max(row.temperature, kMinTemperature))};
        const double u = uniform(row.seed, row.position, static_cast<std::uint32_t>(row.answer));
        return has_filter(row) ? draw_filtered(row, u) : draw(u);
    }

private:
    static std::size_t spans(std::int64_t v) { return static_cast<std::size_t>((v + kSpread - 1) / kSpread); }
    std::int64_t spans() const { return static_cast<std::int64_t>(maxima_.size()); }

    // The first id of the largest logit.
    std::int64_t first(float peak) const {
        const auto span = std::find(maxima_.begin(), maxima_.end(), peak) - maxima_.begin();
        const float* start = x_ + span * kSpread;
        return std::find(start, x_ + v_, peak) - x_;
    }

    double weigh_all() {
        floats_.masses(x_, v_, how_, masses_.data());
        return sum_of(masses_.data(), spans());
    }

    std::int64_t draw(double u) {
        const double target = u * weigh_all();
        const Crossing span = crossing(masses_.data(), spans(), target);
        const std::int64_t start = span.at * kSpread, n = std::min(kSpread, v_ - start);
        float weights[kSpread];
        floats_.weigh(x_ + start, n, how_, weights);
        return start + crossing(weights, n, target - span.before).at;
    }

    std::int64_t draw_filtered(const SampleRow& row, double u) {
        // Top-p is a share of what the filters before it left, which without them is all.
        const bool of_all = row.top_k <= 0 && row.min_p <= 0.0;
        const double mass = of_all ? weigh_all() : 0.0;
        std::int64_t count = std::min(v_, row.top_k > 0 ? row.top_k : kCandidates);
        for (;; count = std::min(v_, count * kGrowth)) {
            find_best(count);
            const std::int64_t probable = above(row.min_p), whole = size();
            const double share = row.top_p * (of_all ? mass : sum_of(weights_.data(), probable));
            const std::int64_t kept = row.top_p < 1.0 ? within(probable, share) : probable;
            const bool enough = row.top_k > 0 || whole == v_ || (row.min_p > 0.0 ? probable : kept) < whole;
            if (!enough) continue;
            const double target = u * sum_of(weights_.data(), kept);
            return id_of(keys_[static_cast<std::size_t>(crossing(weights_.data(), kept, target).at)]);
        }
    }

    std::int64_t size() const { return static_cast<std::int64_t>(keys_.size()); }

    // How many of the best have at least `min_p` of the first one's weight, which is 1.
    std::int64_t above(double min_p) const {
        if (min_p <= 0.0) return size();
        std::int64_t n = 0;
        while (n < size() && weights_[static_cast<std::size_t>(n)] >= min_p) ++n;
        return n;
    }

    // How many of the first n there are before the sum reaches `share`.
    std::int64_t within(std::int64_t n, double share) const {
        double sum = 0.0;
        for (std::int64_t i = 0; i < n; ++i) {
            if (!(sum < share)) return i;
            sum += static_cast<double>(weights_[static_cast<std::size_t>(i)]);
        }
        return n;
    }

    // The `count` best tokens, best first, and their weights.
    void find_best(std::int64_t count) {
        gather(least_rank(count));
        const auto wanted = keys_.begin() + std::min(count, size());
        if (wanted != keys_.end()) {
            std::nth_element(keys_.begin(), wanted, keys_.end(), std::greater<>());
            keys_.erase(wanted, keys_.end());
        }
        std::sort(keys_.begin(), keys_.end(), std::greater<>());
        values_.clear();
        for (const std::uint64_t key : keys_) values_.push_back(x_[id_of(key)]);
        weights_.resize(keys_.size());
        floats_.weigh(values_.data(), size(), how_, weights_.data());
    }

    // A rank that at least `count` tokens have or exceed: as many spans have a maximum that does.
    std::uint32_t least_rank(std::int64_t count) {
        if (count > spans()) return 0;
        ranks_.clear();
        for (const float most : maxima_) ranks_.push_back(rank_of(most));
        const auto last = ranks_.begin() + (count - 1);
        std::nth_element(ranks_.begin(), last, ranks_.end(), std::greater<>());
        return *last;
    }

    void gather(std::uint32_t least) {
        keys_.clear();
        for (std::int64_t span = 0; span < spans(); ++span) {
            if (rank_of(maxima_[static_cast<std::size_t>(span)]) < least) continue;
            const std::int64_t start = span * kSpread, end = std::min(v_, start + kSpread);
            for (std::int64_t id = start; id < end; ++id) {
                const std::uint32_t rank = rank_of(x_[id]);
                if (rank >= least) keys_.push_back(key_of(rank, id));
            }
        }
    }

    const Floats& floats_;
    std::int64_t v_;
    const float* x_ = nullptr;
    Softness how_{};
    std::vector<float> maxima_;
    std::vector<double> masses_;
    std::vector<std::uint32_t> ranks_;
    std::vector<std::uint64_t> keys_;
    std::vector<float> values_, weights_;
};

}  // namespace

std::vector<std::int64_t> sample(Runtime& runtime, const float* logits, std::int64_t v, std::int64_t stride,
                                 const std::vector<SampleRow>& rows) {
    std::vector<std::int64_t> chosen(rows.size());
    const bool filters = std::any_of(rows.begin(), rows.end(), has_filter);
    const auto count = static_cast<std::int64_t>(rows.size());
    std::vector<Chooser> choosers;
    for (int thread = 0; thread < runtime.threads(); ++thread) {
        choosers.emplace_back(*runtime.kernels().floats, v, filters);
    }
    runtime.pool().share(count, [&](std::int64_t row, int thread) {
        const auto at = static_cast<std::size_t>(row);
        chosen[at] = choosers[static_cast<std::size_t>(thread)].choose(logits + row * stride, rows[at]);
    });
    return chosen;
}

}  // namespace nearfield
