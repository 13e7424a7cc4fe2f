"""int8 weights: codes [N, K] int8, and scales [N] fp32 (a row, an output channel, each) or [N, K / group] fp16."""

import torch
from torch import Tensor

from nearfield.core.errors import ConfigError
from nearfield.formats.groups import check_columns, check_group
from nearfield.kernels.ops import PackedWeight, Rounding
from nearfield.kernels.reference import round_to_nearest
from nearfield.kernels.reference.quantized import dequantize

BLOCK = 32
"""Columns that the kernels take at once."""


class Int8:
    """Symmetric, -127 .. 127, rounded to nearest; a scale for each row (None), or for each group of columns.

    Raises ConfigError for a group that is not 32, 64 or 128, or columns that cannot be cut into groups, or blocks.
    """

    name = "int8"

    def __init__(self, group: int | None = None) -> None:
        self._group = group if group is None else check_group(group)

    def pack(self, dense: Tensor, round: Rounding = round_to_nearest) -> PackedWeight:
        """Quantise a matrix [N, K]."""
        rows, columns = dense.shape
        if self._group is None:
            if columns % BLOCK:
                raise ConfigError(f"a matrix of {rows} x {columns} cannot be cut into blocks of {BLOCK} columns, in "
                                  "which int8 codes are multiplied; serve it dense")
            codes, scales = round(dense, columns, -127, 127, torch.float32)
            scales = scales.flatten()
        else:
            check_columns(dense, self._group, "leave --group out")
            codes, scales = round(dense, self._group, -127, 127, torch.float16)
        return PackedWeight(self.name, (rows, columns), {"codes": codes, "scales": scales})

    def unpack(self, weight: PackedWeight) -> Tensor:
        """The matrix that the codes stand for, fp32."""
        return dequantize(weight)

    def bits_per_weight(self, weight: PackedWeight) -> float:
        """Codes and scales."""
        return 8.0 * weight.nbytes / (weight.shape[0] * weight.shape[1])
