"""Scales by a search for the least squared error, each column's error counting as much as its input is large.

The search of the error weighted by mean x^2 is llm-compressor's imatrix_mse (examples/imatrix); here a least-squares
step from the best clipping follows, and the scale is rounded as it will be stored before it is judged.
"""

import torch
from torch import Tensor

_SHARES = tuple(1.04 - 0.02 * step for step in range(28))
"""Scales tried, as shares of the one that spans the largest weight: 1.04 down to 0.5."""

_CHUNK = 1 << 20
"""Weights worked on at once: what the search holds of them stays in the caches."""


def weighted_scales(dense: Tensor, importance: Tensor, group: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Scales [N, K / group] of `dtype` for a matrix [N, K] fp32; importance [K]: the mean square of each input.

    Groups of zeros, and those whose scale `dtype` cannot hold, get the scale 1.
    """
    rows = max(1, _CHUNK // dense.shape[1])
    weights = importance.float().clamp(min=float(importance.mean()) * 1e-6 or 1.0).view(-1, group)
    return torch.cat([_search(part, weights, low, high, dtype) for part in torch.split(dense, rows)])


def _search(dense: Tensor, weights: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
    x = dense.view(len(dense), *weights.shape)                      # [N, K / group, group]
    span = x.abs().amax(-1) / high
    best = _stored(span, dtype)
    least = _error(x, weights, best, low, high)
    for share in _SHARES:
        best, least = _better(x, weights, best, least, _stored(span * share, dtype), low, high)
    codes = codes_of(x, best[..., None], low, high)
    weighted = weights * codes
    fitted = (weighted * x).sum(-1) / (weighted * codes).sum(-1)
    best, _ = _better(x, weights, best, least, _stored(fitted.nan_to_num(), dtype), low, high)
    return best.to(dtype)


def codes_of(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """The codes nearest to `x`, as floats."""
    return (x / scale).round_().clamp_(low, high)


def dequantized(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes int8 [N, K] times their scales [N, K / group]: fp32."""
    return (codes.float().view(*scales.shape, -1) * scales.float()[..., None]).flatten(1)


def _better(x: Tensor, weights: Tensor, best: Tensor, least: Tensor, scale: Tensor, low: int,
            high: int) -> tuple[Tensor, Tensor]:
    error = _error(x, weights, scale, low, high)
    wins = error < least
    return torch.where(wins, scale, best), torch.where(wins, error, least)


def _error(x: Tensor, weights: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    wide = scale[..., None]
    return ((codes_of(x, wide, low, high) * wide - x).square_() * weights).sum(-1)


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A scale as it reads once it is stored; 1 where nothing is left of it."""
    read = scale.clamp(max=torch.finfo(dtype).max).to(dtype).float()
    return torch.where(read >= torch.finfo(torch.float32).tiny, read, 1.0)
