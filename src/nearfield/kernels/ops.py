"""The operations a model is made of: their signatures, shapes and plans. No backend lives here.

Shapes: T tokens of a step laid end to end (rows of the batch one after another), D hidden size,
H query heads, G key/value heads (H % G == 0), d head size, V vocabulary, P page size.
A backend is a module with functions of these names; `select.build` binds them into an `OpTable`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Prepared(Protocol):
    """A weight in the layout of one backend's kernels, which alone can read it."""

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class PackedWeight:
    """A weight as its format stores it: named tensors, the logical [out, in] shape, the format's name.

    `prepared` stands in for the tensors once a backend has laid them out for itself (OpTable.prepare).
    """

    format: str
    shape: tuple[int, int]
    tensors: Mapping[str, Tensor]
    prepared: Prepared | None = None

    @property
    def nbytes(self) -> int:
        held = sum(t.numel() * t.element_size() for t in self.tensors.values())
        return held + (0 if self.prepared is None else self.prepared.nbytes)


@dataclass(frozen=True)
class KVLayer:
    """One layer's K and V: each [pages, G, P, d], owned by the cache's store."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class AttnRow:
    """A row of a step, as attention sees it: tokens offset .. offset+length-1 of the step are
    positions start .. start+length-1 of a sequence whose K/V lie in `pages` [N] int64."""

    offset: int
    length: int
    start: int
    pages: Tensor


@dataclass(frozen=True)
class DecodeGroup:
    """Rows of length 1 with contexts of similar length, attended as one batch.

    index [B]: their tokens in the step. pages [B, N]: page tables, padded with page 0.
    lengths [B]: positions to attend to, the new one included. All int64. `shortest` is the least length.
    """

    index: Tensor
    pages: Tensor
    lengths: Tensor
    shortest: int


@dataclass(frozen=True)
class AttnPlan:
    """What attention needs of a step, made once and used by every layer.

    `slots` [T] int64: where each token's K/V go, as page * P + place in page. It is None when there
    is no cache, as in training: then `chunks` alone are set, and each row attends to itself.
    """

    slots: Tensor | None
    chunks: tuple[AttnRow, ...]
    decodes: tuple[DecodeGroup, ...] = ()


@dataclass(frozen=True)
class SampleRow:
    """How to choose one token from one row of logits: a row's share of core.SamplingParams.

    `seed`, `position` and `sample_index` are the key and the counter of the row's random number.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    position: int
    sample_index: int = 0


@dataclass(frozen=True)
class OpTable:
    """The chosen function for each operation, bound once at start. Each is documented in `reference`."""

    backend: str
    threads: int
    prepare: Callable[[PackedWeight], PackedWeight]
    linear: Callable[[Tensor, PackedWeight, Tensor | None], Tensor]
    embed: Callable[[Tensor, PackedWeight, torch.dtype], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rope: Callable[[Tensor, Tensor, Tensor], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    store_kv: Callable[[KVLayer, Tensor, Tensor, Tensor], None]
    attend: Callable[[Tensor, KVLayer, AttnPlan, int | None], Tensor]
    attend_dense: Callable[[Tensor, Tensor, Tensor, AttnPlan, int | None], Tensor]
    sample: Callable[[Tensor, Sequence[SampleRow]], list[int]]
