"""The operations a model is made of: their signatures, shapes and plans. No backend lives here.

Shapes: T tokens of a step laid end to end (rows of the batch one after another), D hidden size,
H query heads, G key/value heads (H % G == 0), d head size, V vocabulary, P page size.
A backend is a module with functions of these names; `select.build` binds them into an `OpTable`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class PackedWeight:
    """A weight as its format stores it: named tensors, the logical [out, in] shape, the format's name."""

    format: str
    shape: tuple[int, int]
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


@dataclass(frozen=True)
class KVLayer:
    """One layer's K and V: each [pages, G, P, d], owned by the cache's store."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class AttnRow:
    """A row of a step, as attention sees it: tokens offset .. offset+length-1 of the step are
    positions start .. start+length-1 of a sequence whose K/V lie in `pages` (see core.plan.Row)."""

    offset: int
    length: int
    start: int
    pages: tuple[int, ...]


@dataclass(frozen=True)
class AttnPlan:
    """What attention needs of a step, made once and used by every layer.

    `slots` [T] int64: where each token's K/V go, as page * P + place in page; None when there is no
    cache, as in training: then K and V of the step itself are attended, each row by itself.
    `decode` are the rows of length 1, batched: their token indices [B], page table [B, N] (padded
    with page 0) and lengths [B]; `chunks` are the others.
    """

    page_size: int
    slots: Tensor | None
    chunks: tuple[AttnRow, ...]
    decode_index: Tensor
    decode_pages: Tensor
    decode_lengths: Tensor


@dataclass(frozen=True)
class OpTable:
    """The chosen function for each operation, bound once at start. Each is documented in `reference`."""

    backend: str
    linear: Callable[[Tensor, PackedWeight, Tensor | None], Tensor]
    embed: Callable[[Tensor, PackedWeight], Tensor]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rope: Callable[[Tensor, Tensor, Tensor], Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    store_kv: Callable[[KVLayer, Tensor, Tensor, AttnPlan], None]
    attend: Callable[[Tensor, KVLayer, AttnPlan, float, int | None], Tensor]
    attend_dense: Callable[[Tensor, Tensor, Tensor, AttnPlan, float, int | None], Tensor]
    sample: Callable[[Tensor, "SampleRow"], int]


@dataclass(frozen=True)
class SampleRow:
    """How to choose one token from one row of logits: a row's share of core.SamplingParams.

    `key` and `counter` are Philox's: the request's seed, and (position, sample index).
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    key: int
    position: int
    sample_index: int = 0


__all__ = ["AttnPlan", "AttnRow", "KVLayer", "OpTable", "PackedWeight", "SampleRow"]
