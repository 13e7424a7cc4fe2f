"""Which columns of a matrix can go, and what the others take over from them, by the Gram matrix of its inputs.

Optimal brain surgeon (Hassibi and Stork 1993) for groups of columns R, as SparseGPT and ZipLM use it: with P the
inverse of H, taking R away costs tr(W_R P_RR^-1 W_R^T) once the others have taken up what they can and become
W - W_R P_RR^-1 P_R. That is the least-squares fit W H_S H_SS^-1 to the old output, found by elimination. Unlike an
importance of inputs alone, it sees what a column's weights do with them, and that of two that say the same one can go.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.compress.gram import row_errors
from nearfield.core.errors import ModelError

DAMPING = (1e-3, 1e-2, 1e-1, 1.0)
"""Added to the diagonal, as shares of its mean: the first one with which H can be inverted. It pulls the weights that
stay to what they were, not to zero."""

_ROUNDS = 8
"""Costs are computed anew so many times on the way: each column that has gone makes its likes dearer."""


@dataclass(frozen=True)
class Cut:
    """A matrix [N, K] without some of its units of columns. kept: their numbers, rising; dense: as wide as before,
    zeros in the columns that went. error: the mean squared error of the output as a share of its mean square, and
    `bare` what it would be had the other columns stayed as they were."""

    kept: Tensor
    dense: Tensor
    error: float
    bare: float


def cut(dense: Tensor, gram: Tensor, unit: int, keep: int, *, compensate: bool = True) -> Cut:
    """Take all but `keep` units of `unit` columns from a matrix [N, K] fp32 whose inputs have the Gram matrix [K, K].

    Without `compensate`, those go whose own part of the output is least, and the others stay as they are.
    Raises ModelError where the Gram matrix cannot be inverted.
    """
    if compensate:
        kept, made = _eliminated(dense.double(), _inverse(gram), unit, keep)
    else:
        parts = (dense.double().square().sum(0) * gram.diagonal()).view(-1, unit).sum(-1)
        kept = parts.argsort(descending=True, stable=True)[:keep].sort().values
        made = dense.double()[:, columns_of(kept, unit)]
    columns = columns_of(kept, unit)
    wide, gone = torch.zeros_like(dense), torch.ones(dense.shape[1], dtype=torch.bool, device=dense.device)
    wide[:, columns], gone[columns] = made.float(), False
    whole = float(row_errors(dense, gram).sum()) or 1.0
    bare = float(row_errors(dense[:, gone], gram[gone][:, gone]).sum()) / whole
    return Cut(kept, wide, float(row_errors(wide - dense, gram).sum()) / whole if compensate else bare, bare)


def columns_of(units: Tensor, unit: int) -> Tensor:
    """The places of units that are `unit` wide."""
    return (units[:, None] * unit + torch.arange(unit, device=units.device)).flatten()


def _inverse(gram: Tensor) -> Tensor:
    """Of the damped Gram matrix, float64. An input that is always 0 costs nothing, and takes nothing over."""
    damped, mean = gram.clone(), float(gram.diagonal().mean())
    for share in DAMPING:
        damped.diagonal().copy_(gram.diagonal() + (share * mean or 1.0))
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            return torch.cholesky_inverse(factor)
    raise ModelError("the Gram matrix of the inputs cannot be inverted; give more calibration text")


def _eliminated(dense: Tensor, inverse: Tensor, unit: int, keep: int) -> tuple[Tensor, Tensor]:
    """The units that stay, and their columns when the others have gone."""
    alive = torch.arange(dense.shape[1] // unit, device=dense.device)
    step = max(1, (len(alive) - keep) // _ROUNDS)
    while len(alive) > keep:
        order = _costs(dense, inverse, unit).argsort(stable=True)
        gone = order[:min(step, len(alive) - keep)]
        stays = torch.ones_like(alive, dtype=torch.bool)
        stays[gone] = False
        out, rest = columns_of(gone, unit), columns_of(stays.nonzero().flatten(), unit)
        shift = torch.linalg.solve(inverse[out][:, out], inverse[out][:, rest])
        dense = dense[:, rest] - dense[:, out] @ shift
        inverse = inverse[rest][:, rest] - inverse[rest][:, out] @ shift
        alive = alive[stays]
    return alive, dense


def _costs(dense: Tensor, inverse: Tensor, unit: int) -> Tensor:
    """What each unit's going would cost, [units]."""
    count = dense.shape[1] // unit
    blocks = inverse.view(count, unit, count, unit).diagonal(dim1=0, dim2=2).permute(2, 0, 1)   # [units, u, u]
    parts = dense.view(-1, count, unit).permute(1, 2, 0)                                        # [units, u, N]
    costs: Tensor = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
    return costs
