"""AWQ (Lin et al. 2023, arXiv 2306.00978) by the Gram matrix: columns of large inputs are rounded more finely.

A column k is multiplied by s_k before rounding and the norm in front of it divided by s_k, which changes nothing but
what rounding does. s_k is a power of the root mean square of input k; the power is the one of least tr(E H E^T),
so that no input is needed again. Only matrices behind a norm can be treated so, since it alone is a number a column;
others get the search for scales by itself, which is what remains of the method.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nearfield.compress.gram import row_errors
from nearfield.compress.quantize.scales import codes_of, dequantized, weighted_scales

_POWERS = tuple(step / 20 for step in range(1, 21))
_LEAST = 1e-4
"""Inputs smaller than this share of the largest count as this large: none is to be rounded away."""

_ROWS = 512
"""Rows on which powers are tried, evenly taken."""


class Awq:
    """Rounds one matrix behind a norm [K], if there is one; after that `norm` is the one to put in front of it, and
    its columns have been multiplied by `factors` [K]. As kernels.ops.Rounding.
    """

    def __init__(self, norm: Tensor | None, gram: Tensor) -> None:
        self.norm, self.factors = norm, torch.ones(len(gram), device=gram.device)
        self._gram = gram

    def __call__(self, dense: Tensor, group: int, low: int, high: int,
                 scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        def attempt(rows: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
            larger, importance = rows * factors, self._gram.diagonal() / factors.double().square()
            scales = weighted_scales(larger, importance, group, low, high, scale_dtype)
            wide = scales.float().repeat_interleave(group, 1)
            return codes_of(larger, wide, low, high).to(torch.int8), scales

        dense = dense.float()
        some = dense[::max(1, len(dense) // _ROWS)]
        least = float("inf")
        for factors, norm in _candidates(self.norm, self._gram):
            error = float(row_errors(dequantized(*attempt(some, factors)) / factors - some, self._gram).sum())
            if error < least:
                self.factors, self.norm, least = factors, norm, error
        return attempt(dense, self.factors)


def _candidates(norm: Tensor | None, gram: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Factors, and the norm divided by them: one that bfloat16 and float16 hold, so that they match exactly."""
    yield torch.ones(len(gram), device=gram.device), norm
    if norm is None:
        return
    size = gram.diagonal().sqrt().float()
    for power in _POWERS:
        wanted = size.clamp(min=_LEAST * float(size.max())) ** power
        wanted = wanted / (wanted.max() * wanted.min()).sqrt()
        divided = (norm / wanted).bfloat16().half().float()
        stays = (divided == 0) | ~divided.isfinite()
        yield torch.where(stays, 1.0, norm / divided), torch.where(stays, norm, divided)
