"""Each operation of the C++ kernels on real shapes, as a share of the limit measured in the same run.

The limit of a linear operation is the larger of two times: its packed weights at the read bandwidth, and
its multiply-adds at the rate of its format (int8 for w8 and w4). The weights are so many copies that together
they exceed the caches by far, and every pass goes through them in order; activations are small and stay
cached, as in a model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nearfield.bench.contexts import measure_attention
from nearfield.bench.machine import KINDS, Machine, middle
from nearfield.bench.workload import Report
from nearfield.kernels import cpu
from nearfield.kernels.cpu.kernels import CpuKernels

if TYPE_CHECKING:
    from nearfield.kernels.cpu import _native

SHAPES = ((9728, 896), (896, 4864), (2048, 8192), (16384, 2048))
"""Outputs and inputs: gate and up, and down, of a 0.5B model; down, and gate and up, of a 1B one."""

RATES = {"w8": "int8", "w4": "int8", "bf16": "bf16", "fp32": "fp32"}
"""The formats of weights, and the kind of multiply-adds that each is made of."""
DENSE = {"bf16": torch.bfloat16, "fp32": torch.float32}
PASS_SECONDS = 0.03
"""About how long a pass takes where the number of tokens, and not memory, decides."""


@dataclass(frozen=True)
class KernelsParams:
    """What to measure: `m` numbers of tokens, medians of `rounds`, weights and reads of `nbytes` each."""

    m: tuple[int, ...]
    group: int
    rounds: int
    nbytes: int


def run_kernels(threads: int | None, isa: str | None, params: KernelsParams, report: Report) -> dict[str, Any]:
    """The JSON document of `nearfield bench kernels --json`."""
    kernels = cpu.load(threads, isa)
    machine = Machine(kernels, params.nbytes)
    rows: list[dict[str, Any]] = []
    reads: list[float] = []
    rates: dict[str, list[float | None]] = {kind: [] for kind in KINDS}
    for format in RATES:
        kind = _kind(machine, format)
        for n, k in SHAPES:
            report(f"{format} [{n}, {k}]")
            copies = Copies(kernels, format, n, k, params)
            for m in params.m:
                row, seen = _measure(machine, kind, copies, m, params.rounds)
                rows.append(row)
                reads.extend(limits.read_gb_s for limits in seen)
                rates[kind].extend(limits.gmac_s for limits in seen)
    report("attention")
    rows.append(measure_attention(kernels, machine, params.nbytes, params.rounds))
    return {"kind": "kernels", "isa": kernels.isa, "threads": kernels.threads, "bytes": params.nbytes,
            "limits": {"read_gb_s": round(median(reads), 1),
                       **{f"{kind}_gmac_s": middle(rates[kind]) for kind in KINDS}},
            "rows": rows}


@dataclass(frozen=True)
class Limits:
    """What was measured beside an operation: reading, and multiply-adds of its kind, None where there are none."""

    read_gb_s: float
    gmac_s: float | None


class Copies:
    """Packed weights [n, k] of one format, as many as make `params.nbytes`."""

    def __init__(self, kernels: CpuKernels, format: str, n: int, k: int, params: KernelsParams) -> None:
        self.format, self.n, self.k, self.group = format, n, k, params.group
        self._kernels = kernels
        plain = _plain(format, n, k, params.group)
        self._packed = [self._pack(*plain)]
        while len(self._packed) * self.nbytes < params.nbytes:
            self._packed.append(self._pack(*plain))

    @property
    def nbytes(self) -> int:
        """Of one copy."""
        return self._packed[0].nbytes

    def seconds(self, x: Tensor) -> float:
        """Mean seconds of one operation, over a pass through all copies, or over enough of them."""
        out = torch.empty(x.shape[0], self.n)
        self._kernels.linear(x, self._packed[-1], out=out)
        done = 0
        start = time.perf_counter()
        for packed in self._packed:
            self._kernels.linear(x, packed, out=out)
            done += 1
            if x.shape[0] > 64 and time.perf_counter() - start > PASS_SECONDS:
                break
        return (time.perf_counter() - start) / done

    def _pack(self, matrix: Tensor, scales: Tensor) -> "_native.PackedWeights":
        if self.format in DENSE:
            return self._kernels.pack_dense(matrix)
        if self.format == "w8":
            return self._kernels.pack_int8(matrix, scales)
        return self._kernels.pack_int4(matrix, scales, self.group)


def _plain(format: str, n: int, k: int, group: int) -> tuple[Tensor, Tensor]:
    """The codes or floats, and the scales, of which dense weights have none."""
    random = torch.Generator().manual_seed(0)
    if format in DENSE:
        return torch.randn(n, k, generator=random).to(DENSE[format]), torch.empty(0)
    if format == "w8":
        return torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=random), torch.full((n,), 0.01)
    codes = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, generator=random)
    return codes, torch.full((n, k // group), 0.01, dtype=torch.float16)


def _kind(machine: Machine, format: str) -> str:
    """What the kernels multiply with: bf16 becomes fp32 where no instruction takes it."""
    kind = RATES[format]
    return "fp32" if kind == "bf16" and machine.gmac_s(kind) is None else kind


def _measure(machine: Machine, kind: str, copies: Copies, m: int,
             rounds: int) -> tuple[dict[str, Any], Sequence[Limits]]:
    """A row, and the limits that were seen around it."""
    x = torch.randn(m, copies.k, generator=torch.Generator().manual_seed(1))
    seen, times, shares = [_limits(machine, kind)], [], []
    for _ in range(rounds):
        times.append(copies.seconds(x))
        seen.append(_limits(machine, kind))
        before, after = seen[-2:]
        read = (before.read_gb_s + after.read_gb_s) / 2
        least = copies.nbytes / read / 1e9
        if before.gmac_s and after.gmac_s:
            least = max(least, m * copies.n * copies.k / ((before.gmac_s + after.gmac_s) / 2) / 1e9)
        shares.append(least / times[-1])
    row = {"op": "linear", "format": copies.format, "m": m, "n": copies.n, "k": copies.k,
           "us": round(median(times) * 1e6, 1), "share": round(median(shares), 3)}
    if copies.format == "w4":
        row["group"] = copies.group
    return row, seen


def _limits(machine: Machine, kind: str) -> Limits:
    return Limits(machine.read_gb_s(), machine.gmac_s(kind))
