"""Attention over paged K/V: turning queries and keys, storing keys and values, attending to all of a sequence.

Rows of length 1 with contexts of similar length are gathered into one batch (decode); longer rows
are attended one by one (chunks of a prompt). Query heads that share a key/value head are folded
into the query's rows in decode, so that K and V are never repeated.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nearfield.kernels.ops import AttnPlan, AttnRow, Heads, KVLayer, KVShape
from nearfield.kernels.reference.dense import rms_norm, rope

_LIKE = 2
"""Rows whose contexts differ by less than this factor decode as one group: padding costs reads."""

_POSITIONS = 32768
"""Positions of a group in all: their K and V are copied, a layer at a time."""


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


def new_kv(shape: KVShape, pages: int, dtype: torch.dtype) -> tuple[KVLayer, ...]:
    """Zeroed K and V of all layers, each [pages, G, P, d], in one allocation. Raises RuntimeError."""
    data = torch.zeros((shape.layers, 2, pages, shape.kv_heads, shape.page_size, shape.head_dim), dtype=dtype)
    return tuple(KVLayer(k, v) for k, v in data.unbind())


def attention(qkv: Tensor, heads: Heads, rotation: tuple[Tensor, Tensor], cache: KVLayer | None,
              plan: AttnPlan) -> Tensor:
    """qkv [T, (H + 2G) d], all Q heads before K before V, to [T, H d]: each token's attention to its sequence.

    Q and K are normalised where the family does, and rotated by `rotation` (cos and sin, [T, d/2]). K and V
    are written to the cache; without one, as in training, each row of the plan attends to itself.
    """
    split = qkv.view(len(qkv), -1, heads.head_dim)
    turned, v = split[:, :-heads.kv_heads], split[:, -heads.kv_heads:]
    if heads.q_norm is not None and heads.k_norm is not None:
        q, k = turned[:, :-heads.kv_heads], turned[:, -heads.kv_heads:]
        turned = torch.cat((rms_norm(q, heads.q_norm), rms_norm(k, heads.k_norm)), dim=1)
    turned = rope(turned, *rotation)
    q, k = turned[:, :-heads.kv_heads], turned[:, -heads.kv_heads:]
    if cache is None:
        return attend_dense(q, k, v, plan, heads.window).flatten(1)
    store_kv(cache, k, v, plan.slots)
    return attend(q, cache, plan, heads.window).flatten(1)


def store_kv(layer: KVLayer, k: Tensor, v: Tensor, slots: Tensor) -> None:
    """Write k, v [T, G, d] to the places `slots` [T] (page * P + place) of the layer, in place."""
    page_size = layer.k.shape[2]
    page, place = slots // page_size, slots % page_size
    layer.k[page, :, place] = k
    layer.v[page, :, place] = v


def attend(q: Tensor, layer: KVLayer, plan: AttnPlan, window: int | None) -> Tensor:
    """Causal attention of q [T, H, d] over the layer's pages, scaled by 1/sqrt(d): [T, H, d].

    Each token sees the positions of its own sequence up to its own, the last `window` of them if
    given (a sliding window: position i sees j with i - window < j <= i; Jiang et al. 2023).
    """
    out = torch.empty_like(q)
    for row in plan.rows:
        if row.length > 1:
            out[row.offset:row.offset + row.length] = _attend_chunk(q, layer, row, window)
    for group in decode_groups(plan):
        out[group.index] = _attend_decode(q[group.index], layer, group, window)
    return out


def decode_groups(plan: AttnPlan) -> tuple[DecodeGroup, ...]:
    """The plan's rows of length 1 in groups, shortest first, within the two limits above."""
    groups: list[list[AttnRow]] = []
    for row in sorted((row for row in plan.rows if row.length == 1), key=lambda row: row.start):
        length = row.start + 1
        if groups and length <= _LIKE * (groups[-1][0].start + 1) and length * (len(groups[-1]) + 1) <= _POSITIONS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return tuple(_group(rows) for rows in groups)


def _group(rows: list[AttnRow]) -> DecodeGroup:
    width = max(len(row.pages) for row in rows)
    return DecodeGroup(torch.tensor([row.offset for row in rows]),
                       torch.tensor([row.pages + (0,) * (width - len(row.pages)) for row in rows]),
                       torch.tensor([row.start + 1 for row in rows]), rows[0].start + 1)


def attend_dense(q: Tensor, k: Tensor, v: Tensor, plan: AttnPlan, window: int | None) -> Tensor:
    """`attend` without a cache: each row of the plan attends to its own k, v [T, G, d]. For training.

    Rows of one length are one batch.
    """
    lengths = {row.length for row in plan.rows}
    if len(lengths) == 1:
        return _attend_batch(q, k, v, lengths.pop(), window)
    spans = [slice(row.offset, row.offset + row.length) for row in plan.rows]
    return torch.cat([_attend_batch(q[s], k[s], v[s], s.stop - s.start, window) for s in spans])


def _attend_batch(q: Tensor, k: Tensor, v: Tensor, length: int, window: int | None) -> Tensor:
    """Rows of `length` tokens, end to end, each attending to itself."""
    def rows(x: Tensor) -> Tensor:
        return x.view(-1, length, *x.shape[1:]).transpose(1, 2)   # [B, heads, T, d]

    return _causal(rows(q), rows(k), rows(v), 0, window).transpose(1, 2).flatten(0, 1)


def _attend_chunk(q: Tensor, layer: KVLayer, row: AttnRow, window: int | None) -> Tensor:
    page_size = layer.k.shape[2]
    first = 0 if window is None else max(0, row.start + 1 - window) // page_size
    length = row.start + row.length - first * page_size
    pages = torch.tensor([row.pages[first:]], device=q.device)
    k = _gather(layer.k, pages)[:, :, :length]                    # [1, G, L, d]
    v = _gather(layer.v, pages)[:, :, :length]
    rows = q[row.offset:row.offset + row.length].transpose(0, 1).unsqueeze(0)   # [1, H, T, d]
    out = _causal(rows, k, v, row.start - first * page_size, window)
    return out.squeeze(0).transpose(0, 1)


def _attend_decode(q: Tensor, layer: KVLayer, group: DecodeGroup, window: int | None) -> Tensor:
    k, v = _gather(layer.k, group.pages), _gather(layer.v, group.pages)   # [B, G, L, d], copies
    batch, kv_heads, length, size = k.shape
    position = torch.arange(length, device=q.device)
    beyond = position >= group.lengths[:, None]                   # [B, L]
    hidden = beyond if window is None else beyond | (position < group.lengths[:, None] - window)
    # What lies beyond a row's end is another request's: a NaN in it would pass through a weight of zero.
    tail = beyond[:, None, group.shortest:, None]
    k[:, :, group.shortest:].masked_fill_(tail, 0.0)
    v[:, :, group.shortest:].masked_fill_(tail, 0.0)
    # An additive mask of q's dtype: torch would make one of a boolean mask, and slowly.
    bias = torch.zeros_like(hidden, dtype=q.dtype).masked_fill_(hidden, float("-inf"))
    rows = q.view(batch, kv_heads, -1, size)                      # [B, G, H/G, d]
    return F.scaled_dot_product_attention(rows, k, v, bias[:, None, None, :]).view(q.shape)


def _gather(cache: Tensor, pages: Tensor) -> Tensor:
    """K or V [pages, G, P, d] of the page tables [B, N], laid end to end: [B, G, N * P, d]."""
    _, kv_heads, page_size, size = cache.shape
    heads = torch.arange(kv_heads, device=pages.device)
    index = pages[:, None, :] * kv_heads + heads[:, None]         # [B, G, N]
    rows = cache.view(-1, page_size * size).index_select(0, index.flatten())
    return rows.view(pages.shape[0], kv_heads, -1, size)


def _causal(q: Tensor, k: Tensor, v: Tensor, start: int, window: int | None) -> Tensor:
    """q [B, H, T, d] at positions start .. start+T-1 over k, v [B, G, L, d] at 0 .. L-1."""
    gqa = q.shape[1] != k.shape[1]
    if start == 0 and (window is None or window >= k.shape[2]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    i = torch.arange(start, start + q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)
    mask = j <= i
    if window is not None:
        mask &= j > i - window
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=gqa)
