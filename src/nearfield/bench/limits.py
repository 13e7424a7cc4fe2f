"""What the machine could do with a model's matrices alone, measured in the same run.

A share of this limit travels between machines, and over the hours of a shared one, better than a
bare number of tokens a second. It leaves out attention, norms, sampling and all of Python, so 1.0 is
not reached. For the C++ kernels it is the larger of the matrices' bytes at the read bandwidth and their
multiply-adds at the rate of the instruction that they are made with; for the reference backend, plain torch
products of the same matrices, in their own places.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nearfield.bench.machine import Machine
from nearfield.engine.build import Loaded
from nearfield.kernels import cpu

READ_BYTES = 1 << 30
"""Read to find the bandwidth: more than a cache holds."""


class Limit(Protocol):
    """How long the matrices alone would take."""

    def seconds(self, rows: int, head_rows: int) -> float:
        """Seconds of one pass of `rows` tokens, of which `head_rows` get logits, measured now.

        Decoding a batch of B is seconds(B, B); a prompt of N tokens is seconds(N, 1).
        """


@dataclass(frozen=True)
class MatmulLimit:
    """Every matrix [out, in] that a token is multiplied by; `head` makes the logits."""

    inner: Sequence[Tensor]
    head: Tensor

    def seconds(self, rows: int, head_rows: int) -> float:
        """Time plain torch products; see Limit."""
        widths = {weight.shape[1] for weight in self.inner}
        inputs = {width: self._input(rows, width) for width in widths}
        last = self._input(head_rows, self.head.shape[1])
        start = time.perf_counter()
        with torch.inference_mode():
            for weight in self.inner:
                functional.linear(inputs[weight.shape[1]], weight)
            functional.linear(last, self.head)
        return time.perf_counter() - start

    def _input(self, rows: int, width: int) -> Tensor:
        return torch.full((rows, width), 0.5, dtype=self.head.dtype)


@dataclass(frozen=True)
class RooflineLimit:
    """Matrices of `nbytes` in all; multiply-adds of one of `kinds`, the quickest, a token of the inner ones, and of
    the head."""

    machine: Machine
    kinds: tuple[str, ...]
    nbytes: int
    inner_macs: int
    head_macs: int

    def seconds(self, rows: int, head_rows: int) -> float:
        """The larger of memory's and arithmetic's time, each measured now; see Limit."""
        read, rate = self.machine.read_gb_s(), max(self.machine.gmac_s(kind) or 0.0 for kind in self.kinds)
        macs = rows * self.inner_macs + head_rows * self.head_macs
        return max(self.nbytes / read, macs / rate) / 1e9


def limit_of(loaded: Loaded) -> Limit:
    """The limit made of the model's own matrices."""
    linears = loaded.model.linears()
    if linears[0].weight.prepared is None:
        *inner, head = (linear.weight.tensors["weight"] for linear in linears)
        return MatmulLimit(inner, head)
    macs = [prod(linear.weight.shape) for linear in linears]
    config = loaded.engine.config
    # Where the processor multiplies bf16 more slowly than fp32, the kernels use the latter.
    dense = ("bf16", "fp32") if config.dtype == "bf16" else ("fp32",)
    kinds = dense if linears[0].weight.format == "dense" else ("int8",)
    return RooflineLimit(Machine(cpu.load(config.threads, config.isa), READ_BYTES), kinds,
                         sum(linear.weight.nbytes for linear in linears), sum(macs[:-1]), macs[-1])
