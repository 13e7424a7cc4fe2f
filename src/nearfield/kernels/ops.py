"""The operations a model is made of: their signatures, shapes and plans. No backend lives here.

Shapes: T tokens of a step laid end to end (rows of the batch one after another), D hidden size,
H query heads, G key/value heads (H % G == 0), d head size, V vocabulary, P page size.
A backend is a module with functions of these names; `select.build` binds them into an `OpTable`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor


class Prepared(Protocol):
    """A weight in the layout of one backend's kernels, which alone can read it.

    Its bytes are a buffer, to be written to a file; `layout` is what OpTable.blank needs to make room for them
    again.
    """

    @property
    def nbytes(self) -> int: ...

    @property
    def layout(self) -> Sequence[int]: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


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
class Norm:
    """Root-mean-square normalisation over the last dimension: weight [D], and what is added to the mean."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class Heads:
    """How a layer's attention is made: G key/value heads of size d; norms of each Q and K head [d], where the
    family has them; `window`, the positions that a token sees, itself included (None: all)."""

    kv_heads: int
    head_dim: int
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    window: int | None = None


@dataclass(frozen=True)
class KVShape:
    """What decides the size of a page: layers, key/value heads, head size, positions in a page."""

    layers: int
    kv_heads: int
    head_dim: int
    page_size: int

    def page_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of one page of K and V over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.page_size * dtype.itemsize


@dataclass(frozen=True)
class KVLayer:
    """One layer's K and V, owned by the cache's store, in the layout of the backend that made it (OpTable.new_kv):
    [pages, G, P, d], or as `cpu.attention.new_kv` says."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class AttnRow:
    """A row of a step: tokens offset .. offset+length-1 of the step are positions start .. start+length-1
    of a sequence whose K/V lie in `pages`."""

    offset: int
    length: int
    start: int
    pages: tuple[int, ...]


@dataclass(frozen=True)
class AttnPlan:
    """What attention needs of a step, made once and used by every layer.

    Without a cache, as in training, `page_size` is 0, rows have no pages, and each attends to itself.
    The tensors below are made when first asked for: each backend asks for what it needs.
    """

    rows: tuple[AttnRow, ...]
    page_size: int = 0

    @cached_property
    def spans(self) -> Tensor:
        """[R, 4] int64: each row's offset, length, start, and where its pages begin in `pages`."""
        begins = accumulate((len(row.pages) for row in self.rows), initial=0)
        return torch.tensor([(r.offset, r.length, r.start, at) for r, at in zip(self.rows, begins, strict=False)])

    @cached_property
    def pages(self) -> Tensor:
        """[N] int64: the rows' page tables end to end."""
        return torch.tensor([page for row in self.rows for page in row.pages], dtype=torch.int64)

    @cached_property
    def slots(self) -> Tensor:
        """[T] int64: where each token's K and V go, as page * P + place in page."""
        size = self.page_size
        return torch.tensor([row.pages[p // size] * size + p % size
                             for row in self.rows for p in range(row.start, row.start + row.length)])


@dataclass(frozen=True)
class LayerWeights:
    """A decoder layer: x + out(attention(qkv(attn_norm(x)))), and to that + down(gate(gate_up(mlp_norm))).

    Biases [rows] or None.
    """

    heads: Heads
    attn_norm: Norm
    qkv: PackedWeight
    qkv_bias: Tensor | None
    out: PackedWeight
    out_bias: Tensor | None
    mlp_norm: Norm
    gate_up: PackedWeight
    gate_up_bias: Tensor | None
    down: PackedWeight
    down_bias: Tensor | None


@dataclass(frozen=True)
class DecoderWeights:
    """A model but its head: the table of embeddings, the layers, the norm after them, and `angles`, cos and sin
    [positions, head_dim / 2] float32."""

    table: PackedWeight
    layers: Sequence[LayerWeights]
    norm: Norm
    angles: tuple[Tensor, Tensor]


class BoundDecoder(Protocol):
    """DecoderWeights as one operation."""

    def __call__(self, tokens: Tensor, positions: Tensor, caches: Sequence[KVLayer], plan: AttnPlan) -> Tensor:
        """tokens and positions [T] int64 to hidden states [T, D], the step's K and V written to the caches, one a
        layer. Raises IndexError for a token or a position that the model does not have."""
        ...


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


class LinearOp(Protocol):
    """See `reference.linear`."""

    def __call__(self, x: Tensor, weight: PackedWeight, bias: Tensor | None = None, *, norm: Norm | None = None,
                 gated: bool = False, residual: Tensor | None = None) -> Tensor: ...


class Rounding(Protocol):
    """See `reference.round_to_nearest`."""

    def __call__(self, dense: Tensor, group: int, low: int, high: int,
                 scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class OpTable:
    """The chosen function for each operation, bound once at start. Each is documented in `reference`.

    `profile` names the arithmetic: two tables of one profile give the same bits (None: no promise is made).
    `activations` is what hidden states, norms and biases are held in. `layout` names how `prepare` lays weights
    out: a table of the same layout can read them from a file, into what `blank` makes of a Prepared's layout.
    `bind` makes one operation of a model but its head, with the bits of its parts, where the backend offers it.
    """

    backend: str
    threads: int
    profile: str | None
    activations: torch.dtype
    layout: str
    round_to_nearest: Rounding
    prepare: Callable[[PackedWeight], PackedWeight]
    blank: Callable[[Sequence[int]], Prepared]
    new_kv: Callable[[KVShape, int, torch.dtype], tuple[KVLayer, ...]]
    embed: Callable[[Tensor, PackedWeight, torch.dtype], Tensor]
    linear: LinearOp
    rms_norm: Callable[[Tensor, Norm], Tensor]
    attention: Callable[[Tensor, Heads, tuple[Tensor, Tensor], KVLayer | None, AttnPlan], Tensor]
    sample: Callable[[Tensor, Sequence[SampleRow]], list[int]]
    bind: Callable[[DecoderWeights], BoundDecoder] | None = None
