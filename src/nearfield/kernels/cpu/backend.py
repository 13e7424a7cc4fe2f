"""The C++ kernels behind the OpTable's signatures. Hidden states are float32; nothing on the way is torch's."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from nearfield.kernels.cpu.decoder import CpuDecoder
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import (
    AttnPlan,
    BoundDecoder,
    DecoderWeights,
    Heads,
    KVLayer,
    KVShape,
    Norm,
    PackedWeight,
    Prepared,
    SampleRow,
)

if TYPE_CHECKING:
    from nearfield.kernels.cpu import _native


class CpuBackend:
    """Binds one set of kernels; torch then computes on one thread."""

    def __init__(self, kernels: CpuKernels) -> None:
        self._kernels = kernels
        # torch's threads spin while they wait, on the very processors that the kernels' threads need: with
        # both, decoding on 2 processors took half as long again (decision 005).
        torch.set_num_threads(1)

    def round_to_nearest(self, dense: Tensor, group: int, low: int, high: int,
                         scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As `reference.round_to_nearest`, bit for bit."""
        return self._kernels.round_to_nearest(dense, group, low, high, scale_dtype)

    def prepare(self, weight: PackedWeight) -> PackedWeight:
        """Lay a weight out in blocks of rows, in memory advised for huge pages; see csrc/pack.hpp."""
        tensors = weight.tensors
        if weight.format == "dense":
            packed = self._kernels.pack_dense(tensors["weight"])
        elif weight.format == "int4":
            scales = tensors["scales"]
            packed = self._kernels.pack_int4(tensors["codes"], scales, weight.shape[1] // scales.shape[1],
                                             tensors.get("zeros"))
        elif tensors["scales"].dim() == 2:
            scales = tensors["scales"]
            packed = self._kernels.pack_int8_groups(tensors["codes"], scales, weight.shape[1] // scales.shape[1])
        else:
            packed = self._kernels.pack_int8(tensors["codes"], tensors["scales"])
        return PackedWeight(weight.format, weight.shape, {}, packed)

    def blank(self, layout: Sequence[int]) -> Prepared:
        """Memory for a weight of this layout (Prepared.layout), to be filled through its buffer."""
        return self._kernels.blank(layout)

    def new_kv(self, shape: KVShape, pages: int, dtype: torch.dtype) -> tuple[KVLayer, ...]:
        """As `reference.new_kv`, with K transposed inside a page, in memory advised for huge pages."""
        return self._kernels.new_kv(shape, pages, dtype)

    def embed(self, tokens: Tensor, weight: PackedWeight, dtype: torch.dtype) -> Tensor:
        """As `reference.embed`, in float32."""
        return self._kernels.embed(tokens, _packed(weight))

    def linear(self, x: Tensor, weight: PackedWeight, bias: Tensor | None = None, *, norm: Norm | None = None,
               gated: bool = False, residual: Tensor | None = None) -> Tensor:
        """As `reference.linear`, with activations rounded as the numeric profile says (see __init__)."""
        return self._kernels.linear(x, _packed(weight), bias, norm=norm, gated=gated, residual=residual)

    def bind(self, weights: DecoderWeights) -> BoundDecoder:
        """A model in one call: a step of one token would spend a seventh of its time in Python otherwise."""
        return CpuDecoder(self._kernels, weights)

    def rms_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """As `reference.rms_norm`."""
        return self._kernels.rms_norm(x, norm)

    def attention(self, qkv: Tensor, heads: Heads, rotation: tuple[Tensor, Tensor], cache: KVLayer | None,
                  plan: AttnPlan) -> Tensor:
        """As `reference.attention`, over a cache."""
        if cache is None:
            raise ValueError("the C++ kernels attend to a cache; train with kernels.select.plain")
        return self._kernels.attention(qkv, heads, rotation, cache, plan)

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[int]:
        """As `reference.sample`."""
        return self._kernels.sample(logits, rows)


def _packed(weight: PackedWeight) -> "_native.PackedWeights":
    return cast("_native.PackedWeights", weight.prepared)
