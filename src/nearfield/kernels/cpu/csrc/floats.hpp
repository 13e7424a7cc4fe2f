// The float kernels that each instruction set brings: one source (the *_body.hpp), compiled for each.
#pragma once

#include <cstdint>

namespace nearfield {

struct Floats {
    // out [n] = x [n] / sqrt(mean(x^2) + eps) * weight [n].
    void (*normalise)(const float* x, const float* weight, float eps, std::int64_t n, float* out);
    // out [n] = silu(x[0 .. n-1]) * x[n .. 2n-1].
    void (*gate)(const float* x, std::int64_t n, float* out);
};

extern const Floats avx512_floats, avx2_floats, scalar_floats;

}  // namespace nearfield
