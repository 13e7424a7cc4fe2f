"""Round-to-nearest with a search for the scale: the least squared error over a few clippings of the range.

Every operation is rounded once and every sum has an order, so that a faster backend can give the same codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nearfield.core.errors import ModelError

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Scales tried, as shares of the one that spans the largest weight: clipping it may cost less than rounding
all others more coarsely."""

_CHUNK = 1 << 22
"""Weights worked on at once: the search holds a few copies of them in fp32."""

_LANES = 16


def round_to_nearest(dense: Tensor, group: int, low: int, high: int,
                     scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K] in low .. high and scales [N, K / group] of `scale_dtype` (float16 or float32) for a
    matrix [N, K] of floats.

    A weight becomes code * scale, its code being weight * (1 / scale), rounded half to even and clipped. Groups of
    zeros get the scale 1. Raises ModelError for a weight that is not finite.
    """
    rows = max(1, _CHUNK // dense.shape[1])
    parts = [_round_rows(part, group, low, high, scale_dtype) for part in torch.split(dense, rows)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([scales for _, scales in parts])


def not_finite() -> ModelError:
    """What every backend says of a matrix with a NaN or an infinity; whoever knows its name puts that in front."""
    return ModelError("holds a number that is not finite, and cannot be quantised; the checkpoint is damaged, or its "
                      "numbers do not fit --dtype (try fp32 or bf16)")


def _round_rows(dense: Tensor, group: int, low: int, high: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = dense.float().view(len(dense), -1, group)                  # [N, K / group, group]
    if not x.isfinite().all():
        raise not_finite()
    span = x.abs().amax(-1) / high
    best = torch.full_like(span, float("inf"))
    scales = torch.ones_like(span)
    for share in SHRINK:
        # The scale as it will be stored: rounding it later would undo the search.
        scale = (span * share).clamp(max=torch.finfo(dtype).max).to(dtype).float()
        scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, 1.0)
        error = _sum((_codes(x, scale, low, high) * scale[:, :, None] - x).square())
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
    return _codes(x, scales, low, high).flatten(1).to(torch.int8), scales.to(dtype)


def _codes(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    return (x * (1.0 / scale)[:, :, None]).round_().clamp_(low, high)


def _sum(values: Tensor) -> Tensor:
    """values [N, G, K] over K: column k is added to lane k % 16, ascending; then lanes are folded in halves."""
    padded = F.pad(values, (0, -values.shape[-1] % _LANES)).view(*values.shape[:2], -1, _LANES)
    lanes = padded[:, :, 0]
    for step in range(1, padded.shape[2]):
        lanes = lanes + padded[:, :, step]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes.squeeze(-1)
