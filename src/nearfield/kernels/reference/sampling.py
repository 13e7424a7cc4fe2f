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
    """Choose one token id for each row of logits [B, V] (fp32; some may be -inf). Temperature 0 is greedy.

    A row that has no choice, since all of it is -inf or something in it is NaN or +inf, gets -1.

    Filters apply in vLLM's order: temperature, min-p, top-k, top-p. Top-p is a share of what the
    filters before it left.
    """
    most, best = logits.max(dim=-1)   # the first of equals; argmax takes 2.5 times as long
    greedy = torch.where(most.isfinite(), best, -1).tolist()   # max passes NaN on
    return [token if token < 0 or row.temperature == 0.0 else _draw(logits[i], row)
            for i, (token, row) in enumerate(zip(greedy, rows, strict=True))]


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
    if row.top_k <= 0 and row.top_p >= 1.0 and row.min_p <= 0.0:
        return probs, torch.arange(len(probs), device=probs.device)
    kept, ids = _best(probs, row)
    if row.min_p > 0.0:
        kept = kept[kept >= row.min_p * kept[0]]
    if row.top_k > 0:
        kept = kept[:row.top_k]
    if row.top_p < 1.0:
        # Where nothing was filtered yet the mass is 1, and `kept` may be the beginning of it.
        mass = float(kept.sum()) if row.top_k > 0 or row.min_p > 0.0 else 1.0
        kept = kept[kept.cumsum(0) - kept < row.top_p * mass]
    return kept, ids[:len(kept)]


def _best(probs: Tensor, row: SampleRow) -> tuple[Tensor, Tensor]:
    """Tokens from the most probable down (ties: lowest id first): enough of them for the filters."""
    size = len(probs)
    count = min(size, max(_CANDIDATES, row.top_k))
    top = probs.topk(count).values
    ids = (probs >= top[-1]).nonzero().flatten()
    if not _enough(top, float(probs[ids].sum()), row):
        ids = torch.arange(size, device=probs.device)
    kept, order = probs[ids].sort(descending=True, stable=True)
    return kept, ids[order]


def _enough(top: Tensor, mass: float, row: SampleRow) -> bool:
    """Whether no token below the best ones `top`, of `mass` in all, can pass the filters."""
    if 0 < row.top_k <= len(top):
        return True
    if row.min_p > 0.0:
        return bool(top[-1] < row.min_p * top[0])
    return mass >= row.top_p
