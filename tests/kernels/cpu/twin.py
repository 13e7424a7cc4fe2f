"""The numeric profile of the C++ kernels written a second time, in numpy, float32 operation by operation.

Slow, and independent: the fused multiply-add is a float64 sum, and exact fractions where its second
rounding could go wrong.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfield.kernels.cpu.kernels import CpuKernels

if TYPE_CHECKING:
    from nearfield.kernels.cpu import _native

F32 = np.float32
Array = NDArray[Any]
TINY = F32(2.0**-100)


@dataclass(frozen=True)
class PlainWeights:
    """Weights (codes - zeros) * scales: codes [N, K] int64, zeros and scales [N, K / group]."""

    codes: Array
    zeros: Array
    scales: Tensor
    group: int
    format: str

    @property
    def dense(self) -> Array:
        """[N, K] float64, exact."""
        wide = self.scales.double().numpy()
        centred = self.codes - np.repeat(self.zeros, self.group, axis=1)
        return np.asarray(centred * np.repeat(wide, self.group, axis=1))

    def packed(self, kernels: CpuKernels) -> "_native.PackedWeights":
        if self.format == "w8":
            return kernels.pack_int8(torch.from_numpy(self.codes.astype(np.int8)), self.scales[:, 0])
        if self.format == "w8g":
            return kernels.pack_int8_groups(torch.from_numpy(self.codes.astype(np.int8)), self.scales, self.group)
        halves = torch.from_numpy((self.codes[:, 0::2] | self.codes[:, 1::2] << 4).astype(np.uint8))
        zeros = torch.from_numpy(self.zeros.astype(np.uint8)) if self.format == "w4z" else None
        return kernels.pack_int4(halves, self.scales, self.group, zeros)


def random_weights(rng: np.random.Generator, format: str, n: int, k: int, group: int,
                   dtype: torch.dtype = torch.float16) -> PlainWeights:
    """format: w8 (a scale a row), w8g (groups), w4 (a code of 8 is zero) or w4z (zero points)."""
    if format == "w8":
        group, dtype = k, torch.float32
    low, high = (-128, 128) if format in ("w8", "w8g") else (0, 16)
    codes = rng.integers(low, high, (n, k))
    shape = (n, k // group)
    zeros = {"w4": np.full(shape, 8), "w4z": rng.integers(0, 16, shape)}.get(format, np.zeros(shape, np.int64))
    scales = torch.from_numpy(rng.lognormal(-5, 1, shape)).to(dtype)
    return PlainWeights(codes, zeros, scales, group, format)


def quantize(x: Array, group: int) -> tuple[Array, Array, Array]:
    """x [M, K] float32 to codes [M, K] int64, scales and sums of codes [M, K / group]."""
    m, k = x.shape
    groups = x.reshape(m, k // group, group)
    with np.errstate(all="ignore"):
        peak = np.abs(groups).max(axis=2)  # a NaN wins
        bad, small = ~np.isfinite(peak), peak < TINY
        factor = np.where(bad | small, F32(0), F32(127) / np.where(bad | small, F32(1), peak)).astype(F32)
        scales = np.where(bad, F32("nan"), np.where(small, F32(0), peak / F32(127))).astype(F32)
        finite = np.where((bad | small)[:, :, None], F32(0), groups)
        codes = np.rint(finite * factor[:, :, None]).astype(np.int64)
    return codes.reshape(m, k), scales, codes.sum(axis=2)


def linear(x: Array, weights: PlainWeights, bias: Array | None = None) -> Array:
    """[M, N] float32, the bits that every instruction set must give."""
    codes, act_scales, _ = quantize(x, weights.group)
    scales = weights.scales.float().numpy()
    sums = np.zeros((x.shape[0], scales.shape[0]), F32)
    for g in range(scales.shape[1]):
        part = slice(g * weights.group, (g + 1) * weights.group)
        dots = codes[:, part] @ (weights.codes[:, part] - weights.zeros[:, g : g + 1]).T
        with np.errstate(all="ignore"):
            factor = act_scales[:, g : g + 1] * scales[:, g][None, :]
        sums = fused_multiply_add(dots.astype(F32), factor, sums)
    return sums if bias is None else sums + bias


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a * b + c, rounded once to float32."""
    with np.errstate(all="ignore"):
        wide = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
        result = wide.astype(F32)
    between = (wide.view(np.int64) & (2**29 - 1)) == 2**28
    doubtful = np.isfinite(wide) & (wide != 0) & (between | (np.abs(wide) < 2.0**-120))
    for place in zip(*np.nonzero(doubtful), strict=True):
        exact = Fraction(float(a[place])) * Fraction(float(b[place])) + Fraction(float(c[place]))
        result[place] = nearest_float32(exact)
    return result


def nearest_float32(exact: Fraction) -> np.float32:
    """The nearest float32, ties to the even one. For magnitudes below float32's largest."""
    guess = F32(float(exact))
    around = (np.nextafter(guess, F32("-inf")), guess, np.nextafter(guess, F32("inf")))
    return min(around, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(np.int32)) & 1))


def bits(values: Tensor | Array) -> Array:
    """Floats as the integers of their bits."""
    array = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    return np.ascontiguousarray(array).view(np.int32)
