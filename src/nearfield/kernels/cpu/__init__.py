"""The backend in C++: at the machine's limit, with the same bits everywhere.

The numeric profile (csrc/quantize_body.hpp and csrc/job.hpp are its code): activations become int8 by
`quantize`; products are summed in int32 exactly; each output has one float32 sum, to which the groups of
columns are added in ascending order by

    sum = fma(float(dot), weight_scale * activation_scale, sum)        # the product of scales rounded once

starting at 0; the bias is added last, by a sum of its own. Weights with one scale a row are one group of
all columns. The bits do not depend on the instruction set, the threads, the number of tokens or which
tokens come together.

Dense weights (csrc/dense.hpp) are the profiles `cpu-fp32-v2` and `cpu-bf16-fma-v2`, again the same bits
everywhere: one chain of fused multiply-adds an output, over ascending columns. Where the processor multiplies
bf16 itself and quickly (vdpbf16ps on AMD's, AMX), the profile is `cpu-bf16-dp-v2` or `cpu-bf16-amx-v2`: the same
for any threads and tokens, on such machines.

Attention: csrc/attention.hpp. Norms and gates: csrc/rows_body.hpp. Choosing tokens: csrc/sample.cpp.

`load` is the door; it says what is missing where the extension was not built.
"""

from typing import TYPE_CHECKING

from nearfield.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from nearfield.kernels.cpu.kernels import CpuKernels

ISAS = ("amx", "avx512", "avx2", "scalar")
MOST_THREADS = 8
"""For each CPU. More threads than CPUs only wait for each other; thousands would stall the machine."""


def missing() -> str | None:
    """Why there are no C++ kernels here and what to do, in one line; None where there are."""
    try:
        from nearfield.kernels.cpu import _native  # noqa: F401
    except ImportError as error:
        return (f"the C++ kernels are not built ({error}): install a C++17 compiler and Python's headers, "
                "then install nearfield again")
    return None


def supported() -> tuple[str, ...]:
    """The instruction sets that this build and this processor have, the best first; () without kernels."""
    if missing():
        return ()
    from nearfield.kernels.cpu import _native

    return tuple(_native.supported_isas())


def load(threads: int | None = None, isa: str | None = None) -> "CpuKernels":
    """The kernels on a pool of `threads` (default: the CPUs this process may use), of instruction set `isa`
    (default: the best here).

    Raises ConfigError where there are none, or not this instruction set.
    """
    if reason := missing():
        raise ConfigError(reason)
    from nearfield.kernels.cpu import _native
    from nearfield.kernels.cpu.kernels import CpuKernels
    from nearfield.kernels.cpu.quota import usable_cpus

    available = supported()
    if isa is not None and isa not in ISAS:
        raise ConfigError(f"unknown isa {isa!r}{nearest(isa, ISAS)}; it is one of {', '.join(ISAS)}")
    if isa is not None and isa not in available:
        raise ConfigError(f"isa {isa!r} is not supported by this processor or build; "
                          f"it has {', '.join(available)}")
    most = MOST_THREADS * usable_cpus()
    if threads is not None and not 1 <= threads <= most:
        raise ConfigError(f"threads must be 1 to {most}, {MOST_THREADS} for each CPU that this process may use, "
                          f"not {threads}")
    count = threads or usable_cpus()
    try:
        return CpuKernels(_native.Runtime(count, isa or available[0]))
    except RuntimeError as error:
        raise ConfigError(f"{count} threads cannot be started here ({error}); ask for fewer with --threads") from None
