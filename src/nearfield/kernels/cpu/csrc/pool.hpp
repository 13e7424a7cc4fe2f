// The threads that kernels run on. The calling thread takes part; the others spin for a moment after a
// job, so that the next one starts within a microsecond, and then sleep until there is one.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace nearfield {

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls job(thread) once on every thread, 0 being the caller, and returns when all are done. One job
    // runs at a time: a second caller waits. Throws std::runtime_error in a forked child, which has no
    // workers. `job` must not throw.
    template <class Job>
    void run(const Job& job) {
        run_erased([](const void* context, int thread) { (*static_cast<const Job*>(context))(thread); }, &job);
    }

    // Calls job(task, thread) for each task of [0, tasks). Each thread has a range of its own, which it takes in
    // order, so that it reads one stream of memory; who is done helps the others.
    template <class Job>
    void share(std::int64_t tasks, const Job& job) {
        if (tasks <= 1 || workers_.empty()) {
            run_here([&] {
                for (std::int64_t task = 0; task < tasks; ++task) job(task, 0);
            });
            return;
        }
        const int count = threads();
        const std::lock_guard<std::mutex> turn(one_share_);
        for (int owner = 0; owner < count; ++owner) ranges_[owner].next.store(tasks * owner / count);
        run([&](int thread) {
            for (int step = 0; step < count; ++step) {
                const int owner = (thread + step) % count;
                const std::int64_t end = tasks * (owner + 1) / count;
                for (std::int64_t task; (task = ranges_[owner].next.fetch_add(1)) < end;) job(task, thread);
            }
        });
    }

private:
    using Erased = void (*)(const void* context, int thread);

    template <class Job>
    void run_here(const Job& job) {
        const Job* context = &job;
        call_here([](const void* opaque, int) { (*static_cast<const Job*>(opaque))(); }, context);
    }

    void run_erased(Erased job, const void* context);
    static void call_here(Erased job, const void* context);
    void work(int thread);
    std::uint32_t next_epoch(std::uint32_t seen);
    void wait_for_workers();

    struct alignas(64) Range {
        std::atomic<std::int64_t> next{0};
    };

    std::unique_ptr<Range[]> ranges_;  // one a thread
    std::mutex one_share_;
    std::vector<std::thread> workers_;
    unsigned forks_;  // how often the process had forked when the workers started
    std::mutex one_job_;
    Erased job_ = nullptr;
    const void* context_ = nullptr;
    bool stop_ = false;
    alignas(64) std::atomic<std::uint32_t> epoch_{0};
    alignas(64) std::atomic<int> busy_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::mutex sleep_;
    std::condition_variable wake_;
    std::condition_variable done_;
    std::atomic<bool> caller_sleeps_{false};
};

}  // namespace nearfield
