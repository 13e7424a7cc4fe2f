"""Sequences to attend with, and the same attention written a second time: one query at a time, in float64."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import AttnPlan, AttnRow, Heads, KVLayer, KVShape

Chunk = tuple[int, int]
"""A sequence's number, and how many of its next tokens attend."""


@dataclass(frozen=True)
class Model:
    """What attention is given of a model: query heads, the rest of its heads, pages, what K and V are kept in."""

    query_heads: int
    heads: Heads
    page_size: int
    dtype: torch.dtype = torch.float32

    def qkv(self, tokens: int) -> Tensor:
        """[T, (H + 2 G) d] of random numbers."""
        return torch.randn(tokens, (self.query_heads + 2 * self.heads.kv_heads) * self.heads.head_dim)


def angles(positions: Iterable[int], size: int) -> tuple[Tensor, Tensor]:
    """cos and sin [T, d/2] of rotary embeddings."""
    turns = torch.tensor(list(positions))[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
    return turns.cos(), turns.sin()


class Cache:
    """One layer's cache, and sequences that grow in it, whose pages lie in any order."""

    def __init__(self, kernels: CpuKernels, model: Model, sequences: Sequence[Tensor], stale: float = 0.0) -> None:
        size = model.page_size
        counts = [-(-len(qkv) // size) for qkv in sequences]
        shape = KVShape(1, model.heads.kv_heads, model.heads.head_dim, size)
        self.layer: KVLayer = kernels.new_kv(shape, sum(counts) + 1, model.dtype)[0]
        self.layer.k.fill_(stale)
        self.layer.v.fill_(stale)
        order = iter(torch.randperm(sum(counts) + 1).tolist())
        self._kernels, self._model, self._sequences = kernels, model, sequences
        self._pages = [tuple(next(order) for _ in range(count)) for count in counts]
        self._done = [0] * len(sequences)

    def share(self, sequence: int, other: int, tokens: int) -> None:
        """`sequence` starts after `tokens` (whole pages) that are those of `other`, and reads them in its pages."""
        pages, size = self._pages, self._model.page_size
        assert tokens % size == 0 and tokens <= self._done[other] and not self._done[sequence]
        pages[sequence] = pages[other][:tokens // size] + pages[sequence][tokens // size:]
        self._done[sequence] = tokens

    def step(self, chunks: Sequence[Chunk], turned: bool = True) -> list[Tensor]:
        """Each chunk's attention, [length, H d], all computed in one step; turned: by rotary embeddings."""
        rows: list[AttnRow] = []
        parts: list[Tensor] = []
        places: list[int] = []
        offset = 0
        for sequence, length in chunks:
            start = self._done[sequence]
            pages = self._pages[sequence][:-(-(start + length) // self._model.page_size)]
            rows.append(AttnRow(offset, length, start, pages))
            parts.append(self._sequences[sequence][start:start + length])
            places.extend(range(start, start + length))
            offset += length
            self._done[sequence] += length
        rotation = angles(places if turned else [0] * len(places), self._model.heads.head_dim)
        plan = AttnPlan(tuple(rows), self._model.page_size)
        out = self._kernels.attention(torch.cat(parts), self._model.heads, rotation, self.layer, plan)
        return list(torch.split(out, [length for _, length in chunks]))

    def whole(self, chunks: Iterable[int]) -> Tensor:
        """The first sequence by itself, in these chunks: [T, H d]."""
        return torch.cat([self.step([(0, length)])[0] for length in chunks])


def exact(model: Model, qkv: Tensor) -> Tensor:
    """One sequence [T, (H + 2 G) d] from its beginning, to [T, H d] float64.

    K, V and Q, as weights that are powers of two have it, are rounded to the cache's dtype.
    """
    heads, size = model.heads, model.heads.head_dim
    split = qkv.double().view(len(qkv), -1, size)
    q, k, v = torch.split(split, [model.query_heads, heads.kv_heads, heads.kv_heads], dim=1)
    for norm, x in ((heads.q_norm, q), (heads.k_norm, k)):
        if norm is not None:
            x.copy_(x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double())
    cos, sin = (x.double()[:, None] for x in angles(range(len(qkv)), size))
    q, k = (torch.cat((x[..., :size // 2] * cos - x[..., size // 2:] * sin,
                       x[..., size // 2:] * cos + x[..., :size // 2] * sin), dim=-1) for x in (q, k))
    q, k, v = (x.to(model.dtype).double() for x in (q * (math.log2(math.e) / math.sqrt(size)), k, v))
    out = torch.zeros(len(qkv), model.query_heads, size, dtype=torch.float64)
    for t in range(len(qkv)):
        first = 0 if heads.window is None else max(0, t + 1 - heads.window)
        for h in range(model.query_heads):
            g = h * heads.kv_heads // model.query_heads
            weights = (k[first:t + 1, g] @ q[t, h] * math.log(2)).softmax(0)
            out[t, h] = weights @ v[first:t + 1, g]
    return out.flatten(1)
