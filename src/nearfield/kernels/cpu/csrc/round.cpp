#include "round.hpp"

namespace nearfield {

bool round_to_nearest(Runtime& runtime, const RoundJob& job, std::int64_t n) {
    std::atomic<bool> finite{true};
    runtime.pool().share(n, [&](std::int64_t row, int) {
        if (!runtime.kernels().floats->round_row(job, row)) finite = false;
    });
    return finite;
}

}  // namespace nearfield
