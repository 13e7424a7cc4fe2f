"""What the machine could do: memory read, and multiply-adds by the kernels' own instructions, nothing else.

Bandwidth and clock of a shared machine change within seconds. A share of a limit therefore takes the
limit measured just before and just after, by the same threads.
"""

import ctypes
import time
from statistics import median
from typing import Any

from nearfield.bench.workload import Report
from nearfield.kernels import cpu
from nearfield.kernels.cpu.kernels import CpuKernels

KINDS = ("int8", "bf16", "fp32")
MAC_SECONDS = 0.02
"""About how long one measurement of multiply-adds takes."""


class Machine:
    """Measures on the threads of `kernels`. `nbytes` are read; they should be several times the caches."""

    def __init__(self, kernels: CpuKernels, nbytes: int) -> None:
        self._kernels = kernels
        self._memory = kernels.memory(nbytes)
        # Pages that were never written are all one page of zeros, which the cache would hold.
        ctypes.memset(self._memory.address, 1, nbytes)
        self._rounds = {kind: self._fitting_rounds(kind) for kind in KINDS}

    def read_gb_s(self) -> float:
        """Bytes read once, in GB/s."""
        start = time.perf_counter()
        self._kernels.read(self._memory)
        return self._memory.nbytes / (time.perf_counter() - start) / 1e9

    def gmac_s(self, kind: str) -> float | None:
        """Multiply-adds of `kind`, in 1e9/s; None where the instruction set has no such instruction."""
        start = time.perf_counter()
        done = self._kernels.multiply(kind, self._rounds[kind])
        return done / (time.perf_counter() - start) / 1e9 if done else None

    def _fitting_rounds(self, kind: str) -> int:
        rounds = 10_000
        while True:
            start = time.perf_counter()
            self._kernels.multiply(kind, rounds)
            if time.perf_counter() - start > MAC_SECONDS / 2 or rounds >= 1 << 30:
                return rounds
            rounds *= 2


def limits(threads: int | None, isa: str | None, rounds: int, nbytes: int, report: Report) -> dict[str, Any]:
    """Medians of `rounds` for 1 .. n threads, n the given or usable ones: the JSON document of
    `nearfield bench limits --json`."""
    most = cpu.load(threads, isa)
    rows = []
    for count in range(1, most.threads + 1):
        report(f"{count} of {most.threads} threads")
        machine = Machine(cpu.load(count, most.isa), nbytes)
        rows.append({"threads": count, **_medians(machine, rounds)})
    return {"kind": "limits", "isa": most.isa, "read_bytes": nbytes, "rows": rows}


def _medians(machine: Machine, rounds: int) -> dict[str, float | None]:
    reads = [machine.read_gb_s() for _ in range(rounds)]
    rates = {kind: [machine.gmac_s(kind) for _ in range(rounds)] for kind in KINDS}
    return {"read_gb_s": round(median(reads), 1),
            **{f"{kind}_gmac_s": middle(values) for kind, values in rates.items()}}


def middle(values: list[float | None]) -> float | None:
    """The median, or None where nothing was measured."""
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None
