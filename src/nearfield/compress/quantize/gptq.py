"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): rounding column by column, the next ones taking up each one's error.

As published, with these choices: columns in the order of falling diag H (act_order) while groups stay those of
neighbouring columns (static groups), so that nothing about the order has to be stored; scales from `weighted_scales`;
damping of 1 % of the mean of diag H. Afterwards come sweeps of coordinate descent over the codes (QuantEase, arXiv
2309.01885), which only ever lower tr(E H E^T), and rows that plain rounding serves better keep it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from nearfield.compress.gram import row_errors
from nearfield.compress.quantize.scales import codes_of, dequantized, weighted_scales
from nearfield.core.errors import ModelError
from nearfield.kernels.reference import round_to_nearest

DAMPING = (0.01, 0.1, 1.0)
"""Added to the diagonal, as shares of its mean: the first one with which H can be factored."""

SWEEPS = 2
_LEAF = 32
"""Columns that are updated one at a time; more of them at once are matrix products."""


def gptq(dense: Tensor, group: int, low: int, high: int, scale_dtype: torch.dtype, *,
         gram: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K] and scales [N, K / group] for a matrix [N, K] whose inputs have the Gram matrix [K, K].

    As kernels.ops.Rounding, with `gram`. Raises ModelError where the Gram matrix cannot be factored.
    """
    dense = dense.float()
    scales = weighted_scales(dense, gram.diagonal(), group, low, high, scale_dtype)
    order = gram.diagonal().argsort(descending=True, stable=True)
    damped, factor = _factor(gram[order][:, order])
    wide = scales.float().T.repeat_interleave(group, 0)[order]      # [K, N]: a column's scales lie together
    target = dense.T[order]
    codes = _sweep(target.clone(), factor, wide, low, high)
    step = (damped / damped.diagonal()).float()                    # what a change of column j asks of column l
    for _ in range(SWEEPS):
        held = codes * wide
        pull = held - (step.T @ (held - target))
        codes = _sweep(pull, step, wide, low, high, held)
    made = torch.empty_like(codes)
    made[order] = codes
    return _keep_the_better(dense, gram, made.T.contiguous(), scales, group, low, high)


def _factor(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The damped matrix H, and the upper Cholesky factor of its inverse with rows divided by its diagonal, fp32.

    A column that is never used (its diagonal is 0) is rounded by itself: nothing is known of it.
    """
    mean = gram.diagonal().mean()
    damped = gram.clone()
    for share in DAMPING:
        damped.diagonal().copy_(gram.diagonal() + share * mean)
        damped.diagonal()[gram.diagonal() == 0] = 1.0
        # From H = R R^T with R upper (the Cholesky factor of H turned upside down) follows H^-1 = U^T U, U = R^-1.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not int(failed):
            upper = lower.flip(0, 1)
            eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            inverse = torch.linalg.solve_triangular(upper, eye, upper=True)
            return damped, (inverse / inverse.diagonal()[:, None]).float()
    raise ModelError("the Gram matrix of the inputs cannot be factored; give more calibration text")


def _sweep(wanted: Tensor, follow: Tensor, scales: Tensor, low: int, high: int,
           held: Tensor | None = None) -> Tensor:
    """Round the rows of `wanted` [K, N] one after another, each row's residue e_j passed on to the rows after it:
    wanted[l] -= follow[j, l] * e_j. Returns the codes [K, N] as floats; `wanted` is used up.

    The residue is what rounding left, or with `held`, what a row held before, how far it has moved.
    Halves of halves: what a half asks of the other is one matrix product.
    """
    codes, left = torch.empty_like(wanted), torch.empty_like(wanted)
    for first, last in _halves(0, len(wanted)):
        if last - first > _LEAF:
            middle = (first + last) // 2
            wanted[middle:last].addmm_(follow[first:middle, middle:last].T, left[first:middle], alpha=-1)
            continue
        for j in range(first, last):
            codes[j] = codes_of(wanted[j], scales[j], low, high)
            made = codes[j] * scales[j]
            left[j] = wanted[j] - made if held is None else made - held[j]
            wanted[j + 1:last].addr_(follow[j, j + 1:last], left[j], alpha=-1)
    return codes


def _halves(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Spans of rows in the order of work: leaves, and between its halves each span that is made of two.

    A generator, since a function inside `_sweep` that called itself would keep all of its tensors alive until Python
    looks for cycles: gigabytes, with matrices of real sizes.
    """
    if last - first > _LEAF:
        middle = (first + last) // 2
        yield from _halves(first, middle)
        yield first, last
        yield from _halves(middle, last)
    else:
        yield first, last


def _keep_the_better(dense: Tensor, gram: Tensor, codes: Tensor, scales: Tensor, group: int, low: int,
                     high: int) -> tuple[Tensor, Tensor]:
    """Rows of the codes given, or of rounding to nearest where that leaves less error."""
    made = codes.to(torch.int8)
    plain, plain_scales = round_to_nearest(dense, group, low, high, scales.dtype)
    loses = (row_errors(dequantized(made, scales) - dense, gram)
             > row_errors(dequantized(plain, plain_scales) - dense, gram))[:, None]
    return torch.where(loses, plain, made), torch.where(loses, plain_scales, scales)
