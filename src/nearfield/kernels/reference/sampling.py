"""Choosing a token from logits: greedy, or by inverse CDF over what top-k, top-p and min-p leave.

The draw is one counter-based random number a token, so a choice depends on nothing but its own
logits, seed and position. Ties go to the lowest id throughout.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nearfield.kernels.ops import SampleRow
from nearfield.kernels.reference.philox import uniform

_CANDIDATES = 1024
"""How many of the best tokens are tried before the whole vocabulary is sorted: sorting 150,000
logits costs more than the rest of a step."""


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    """Choose one token id for each row of logits [B, V] (fp32). Temperature 0 is greedy.

    Filters apply in the order temperature, top-k, top-p, min-p (vLLM's and transformers' order).
    """
    best: list[int] = logits.argmax(dim=-1).tolist()
    return [best[i] if row.temperature == 0.0 else _draw(logits[i], row) for i, row in enumerate(rows)]


def _draw(logits: Tensor, row: SampleRow) -> int:
    scaled = logits.double() / max(row.temperature, 1e-5)
    probs = torch.softmax(scaled, dim=-1)                         # [V] float64
    kept, ids = _filtered(probs, row)
    cdf = kept.cumsum(0)
    target = uniform(row.seed, row.position, row.sample_index) * cdf[-1].item()
    index = int(torch.searchsorted(cdf, target, right=True))
    return int(ids[min(index, len(ids) - 1)])


def _filtered(probs: Tensor, row: SampleRow) -> tuple[Tensor, Tensor]:
    """The probabilities that the filters leave, and their ids: best first, or all in id order."""
    if row.top_k <= 0 and row.top_p >= 1.0:
        if row.min_p <= 0.0:
            return probs, torch.arange(len(probs), device=probs.device)
        ids = (probs >= row.min_p * probs.max()).nonzero().flatten()
        return probs[ids], ids
    kept, ids = _best(probs, row)
    if row.top_k > 0:
        kept, ids = kept[:row.top_k], ids[:row.top_k]
    if row.top_p < 1.0:
        before = kept.cumsum(0) - kept
        count = int((before < row.top_p * _mass(kept, row)).sum())
        kept, ids = kept[:count], ids[:count]
    if row.min_p > 0.0:
        count = int((kept >= row.min_p * kept[0]).sum())
        kept, ids = kept[:count], ids[:count]
    return kept, ids


def _mass(kept: Tensor, row: SampleRow) -> float:
    """What top-p is a share of: the mass that top-k left, which is 1 where top-k does not act."""
    return float(kept.sum()) if row.top_k > 0 else 1.0


def _best(probs: Tensor, row: SampleRow) -> tuple[Tensor, Tensor]:
    """Tokens from the most probable down (ties: lowest id first): enough of them for top-k and top-p."""
    size = len(probs)
    count = min(size, max(_CANDIDATES, row.top_k))
    least = probs.topk(count).values[-1]
    ids = (probs >= least).nonzero().flatten()
    enough = 0 < row.top_k <= count or float(probs[ids].sum()) >= row.top_p
    if not enough:
        ids = torch.arange(size, device=probs.device)
    kept, order = probs[ids].sort(descending=True, stable=True)
    return kept, ids[order]
