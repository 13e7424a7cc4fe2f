// See pool.hpp. A job is announced by a new epoch. Going to sleep and waking follow one rule: the sleeper
// says that it sleeps before it looks again, and the waker changes what is looked at before it asks who
// sleeps; both with sequential consistency, so that no wake-up is lost.
#include "pool.hpp"

#include <pthread.h>

#include <chrono>
#include <stdexcept>

#include "float_mode.hpp"

namespace nearfield {
namespace {

constexpr auto kSpin = std::chrono::microseconds(1000);  // what Python does between two steps
constexpr int kLooksPerClock = 64;

std::atomic<unsigned> forks{0};

void count_forks() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
    (void)registered;
}

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Whether `ready` came true within the time that spinning is worth.
template <class Ready>
bool spin(const Ready& ready) {
    const auto start = std::chrono::steady_clock::now();
    do {
        for (int look = 0; look < kLooksPerClock; ++look) {
            if (ready()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() - start < kSpin);
    return false;
}

}  // namespace

Pool::Pool(int threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1, not " + std::to_string(threads));
    count_forks();
    forks_ = forks.load();
    ranges_ = std::make_unique<Range[]>(static_cast<std::size_t>(threads));
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

Pool::~Pool() {
    if (forks_ != forks.load()) {
        // The threads stayed with the parent, and can neither be joined nor destroyed here.
        new std::vector<std::thread>(std::move(workers_));
        return;
    }
    {
        std::lock_guard<std::mutex> lock(sleep_);
        stop_ = true;
        epoch_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Pool::call_here(Erased job, const void* context) {
    const FloatMode mode;
    job(context, 0);
}

void Pool::run_erased(Erased job, const void* context) {
    if (workers_.empty()) return call_here(job, context);
    if (forks_ != forks.load(std::memory_order_relaxed)) {
        throw std::runtime_error(
            "the process forked after the kernels' threads had started, and they stayed with the parent; "
            "load the model in the child, or start the child with spawn");
    }
    std::lock_guard<std::mutex> turn(one_job_);
    job_ = job;
    context_ = context;
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    epoch_.fetch_add(1);
    if (sleepers_.load() > 0) {
        { std::lock_guard<std::mutex> lock(sleep_); }
        wake_.notify_all();
    }
    call_here(job, context);
    wait_for_workers();
}

void Pool::wait_for_workers() {
    const auto all_done = [this] { return busy_.load(std::memory_order_acquire) == 0; };
    if (spin(all_done)) return;
    std::unique_lock<std::mutex> lock(sleep_);
    caller_sleeps_.store(true);
    done_.wait(lock, [this] { return busy_.load() == 0; });
    caller_sleeps_.store(false);
}

std::uint32_t Pool::next_epoch(std::uint32_t seen) {
    const auto changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
    if (!spin(changed)) {
        std::unique_lock<std::mutex> lock(sleep_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return epoch_.load() != seen; });
        sleepers_.fetch_sub(1);
    }
    return epoch_.load(std::memory_order_acquire);
}

void Pool::work(int thread) {
    const FloatMode mode;
    for (std::uint32_t seen = 0;;) {
        seen = next_epoch(seen);
        if (stop_) return;
        job_(context_, thread);
        if (busy_.fetch_sub(1) == 1 && caller_sleeps_.load()) {
            { std::lock_guard<std::mutex> lock(sleep_); }
            done_.notify_one();
        }
    }
}

}  // namespace nearfield
