// The tables of kernels that this build has, one an instruction set, and the choice among them.
#pragma once

#include "job.hpp"

namespace nearfield {

const Kernels& scalar_kernels();
#ifdef NEARFIELD_X86
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#ifdef NEARFIELD_AVX512BF16
double avx512_mac_bf16(std::int64_t rounds);
#ifdef NEARFIELD_AMX
void amx_linear(const LinearJob& job, const Part& part, std::uint8_t* scratch);
double amx_mac_int8(std::int64_t rounds);
double amx_mac_bf16(std::int64_t rounds);
#endif
#endif
#endif

}  // namespace nearfield
