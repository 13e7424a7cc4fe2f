"""The C++ kernels behind the OpTable's signatures: linear on int8 and int4 weights, the rest by `reference`."""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from nearfield.kernels.cpu import FORMATS
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import Norm, PackedWeight

if TYPE_CHECKING:
    from nearfield.kernels.cpu import _native


class CpuBackend:
    """Binds one set of kernels; torch then computes on one thread. Weights keep their codes until prepared."""

    def __init__(self, kernels: CpuKernels) -> None:
        self._kernels = kernels
        # torch's threads spin while they wait, on the very processors that the kernels' threads need: with
        # both, decoding on 2 processors took half as long again (decision 005).
        torch.set_num_threads(1)

    def prepare(self, weight: PackedWeight) -> PackedWeight:
        """Lay codes and scales out in blocks of rows, in memory advised for huge pages; see csrc/pack.hpp."""
        if weight.format not in FORMATS:
            return weight
        codes, scales = weight.tensors["codes"], weight.tensors["scales"]
        if weight.format == "int8":
            packed = self._kernels.pack_int8(codes, scales)
        else:
            packed = self._kernels.pack_int4(codes, scales, weight.shape[1] // scales.shape[1])
        return PackedWeight(weight.format, weight.shape, {}, packed)

    def linear(self, x: Tensor, weight: PackedWeight, bias: Tensor | None = None, *, norm: Norm | None = None,
               gated: bool = False, residual: Tensor | None = None) -> Tensor:
        """As `reference.linear`, with activations rounded to int8 (the numeric profile in __init__)."""
        return self._kernels.linear(x, cast("_native.PackedWeights", weight.prepared), bias, norm=norm, gated=gated,
                                    residual=residual)
