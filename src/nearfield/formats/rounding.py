"""Round-to-nearest with a search for the scale: the least squared error over a few clippings of the range."""

import torch
from torch import Tensor

SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Scales tried, as shares of the one that spans the largest weight: clipping it may cost less than rounding
all others more coarsely."""

_CHUNK = 1 << 22
"""Weights worked on at once: the search holds a few copies of them in fp32."""


def round_to_nearest(dense: Tensor, group: int, low: int, high: int,
                     scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K] in low .. high and scales [N, K / group] of `scale_dtype` for a matrix [N, K].

    A weight becomes code * scale. Groups of zeros get the scale 1.
    """
    rows = max(1, _CHUNK // dense.shape[1])
    parts = [_round_rows(part, group, low, high, scale_dtype) for part in torch.split(dense, rows)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([scales for _, scales in parts])


def _round_rows(dense: Tensor, group: int, low: int, high: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = dense.float().view(len(dense), -1, group)                  # [N, K / group, group]
    span = x.abs().amax(-1) / high
    best = torch.full_like(span, float("inf"))
    scales = torch.ones_like(span)
    for share in SHRINK:
        # The scale as it will be stored: rounding it later would undo the search.
        scale = (span * share).to(dtype).float()
        scale = torch.where(scale > 0, scale, 1.0)
        error = (_codes(x, scale, low, high) * scale[:, :, None] - x).square().sum(-1)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
    return _codes(x, scales, low, high).flatten(1).to(torch.int8), scales.to(dtype)


def _codes(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    return (x / scale[:, :, None]).round_().clamp_(low, high)
