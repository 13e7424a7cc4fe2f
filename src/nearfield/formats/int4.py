"""int4 weights, one scale for each group of columns: codes [N, K / 2] uint8 and scales [N, K / group] fp16.

Weights that others made may have zero points too (reference/quantized.py); rounding here makes none.
"""

import torch
from torch import Tensor

from nearfield.formats.groups import check_columns, check_group
from nearfield.kernels.ops import PackedWeight, Rounding
from nearfield.kernels.reference import round_to_nearest
from nearfield.kernels.reference.quantized import dequantize, pack_int4


class Int4:
    """Symmetric, -8 .. 7, rounded to nearest, in groups of `group` columns.

    Raises ConfigError for a group that is not 32, 64 or 128, or of which a matrix is not a multiple.
    """

    name = "int4"
    GROUP = 64
    """The usual one: a tenth more bytes than the codes alone, and most of the quality of 32."""

    def __init__(self, group: int = GROUP) -> None:
        self._group = check_group(group)

    def pack(self, dense: Tensor, round: Rounding = round_to_nearest) -> PackedWeight:
        """Quantise a matrix [N, K]."""
        rows, columns = dense.shape
        check_columns(dense, self._group, "--weights w8")
        codes, scales = round(dense, self._group, -8, 7, torch.float16)
        return PackedWeight(self.name, (rows, columns), {"codes": pack_int4(codes), "scales": scales})

    def unpack(self, weight: PackedWeight) -> Tensor:
        """The matrix that the codes stand for, fp32."""
        return dequantize(weight)

    def bits_per_weight(self, weight: PackedWeight) -> float:
        """Codes and scales."""
        return 8.0 * weight.nbytes / (weight.shape[0] * weight.shape[1])
