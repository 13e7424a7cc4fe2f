// Linear operations by many tokens on AMX: tiles of 16 tokens by 64 columns times 64 columns by 16 rows, exact
// int32 sums, hence the bits of every other instruction set. A block's codes of 64 columns are such a tile as
// they lie (job.hpp); activations lie in plain rows (Acts of width 1). Everything else is AVX-512's.
#include "amx.hpp"
#include "kernels.hpp"

namespace nearfield {

void amx_linear(const LinearJob& job, const Part& part, std::uint8_t* scratch) {
    if (job.acts.width != 1 || job.acts.m == 1) return avx512_kernels().linear(job, part, scratch);
    configure(kTileTokens);
    scaled_by_row(job.weights) ? amx_linear_rows(job, part, scratch) : amx_linear_groups(job, part, scratch);
    _tile_release();
    if (job.past) _mm_sfence();
}

// Four tiles of sums hide the latency.
double amx_mac_int8(std::int64_t rounds) {
    configure(kTileTokens);
    for (std::int64_t i = 0; i < rounds; ++i) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_release();
    return static_cast<double>(rounds) * 4 * kTileTokens * kRows * kTileColumns;
}

}  // namespace nearfield
