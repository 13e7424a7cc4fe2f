"""The Gram matrix of a layer's inputs, H = sum of x x^T: all that quantisation asks of calibration text.

The error that a changed matrix makes in the layer's output, summed over all inputs, is tr(E H E^T) with E the change of
the matrix: no input has to be kept.
"""

import torch
from torch import Tensor

_TILE = 1024
"""Columns of a tile: only tiles on and above the diagonal are computed."""


class Gram:
    """Adds up inputs of `columns` numbers. Products are float32, sums over batches of rows float64."""

    def __init__(self, columns: int, device: torch.device | None = None) -> None:
        self.rows = 0
        self._sum = torch.zeros(columns, columns, dtype=torch.float64, device=device)

    def add(self, inputs: Tensor) -> None:
        """inputs [T, K] fp32: some thousand rows at once are quickest."""
        self.rows += len(inputs)
        columns = inputs.shape[1]
        for first in range(0, columns, _TILE):
            last = min(first + _TILE, columns)
            self._sum[first:last, first:] += inputs[:, first:last].T @ inputs[:, first:]

    def matrix(self) -> Tensor:
        """The mean of x x^T, [K, K] float64, symmetric."""
        upper = self._sum.triu()
        return (upper + upper.triu(1).T) / max(self.rows, 1)


def row_errors(change: Tensor, gram: Tensor) -> Tensor:
    """e H e^T for each row e of the change [N, K] of a matrix: the mean squared error [N] of its output."""
    change = change.to(gram.dtype)
    return ((change @ gram) * change).sum(-1)


def output_error(made: Tensor, dense: Tensor, gram: Tensor) -> float:
    """The mean squared error of the output that `made` [N, K] makes in place of `dense`, as a share of the mean square
    of that output."""
    whole = float(row_errors(dense, gram).sum())
    return float(row_errors(made - dense, gram).sum()) / whole if whole else 0.0
