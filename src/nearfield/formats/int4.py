"""int4 weights, one scale for each group of columns: codes [N, K / 2] uint8 and scales [N, K / group] fp16."""

import torch
from torch import Tensor

from nearfield.core.errors import ConfigError
from nearfield.formats.rounding import round_to_nearest
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference.quantized import dequantize, pack_int4

GROUPS = (32, 64, 128)


class Int4:
    """Symmetric, -8 .. 7, rounded to nearest, in groups of `group` columns.

    Raises ConfigError for a group that is not 32, 64 or 128, or of which a matrix is not a multiple.
    """

    name = "int4"

    def __init__(self, group: int) -> None:
        if group not in GROUPS:
            raise ConfigError(f"group must be one of {', '.join(map(str, GROUPS))}, got {group}")
        self._group = group

    def pack(self, dense: Tensor) -> PackedWeight:
        """Quantise a matrix [N, K]."""
        rows, columns = dense.shape
        if columns % self._group:
            raise ConfigError(f"a matrix of {rows} x {columns} cannot be cut into groups of {self._group} columns; "
                              f"choose another --group ({', '.join(map(str, GROUPS))}) or --weights w8")
        codes, scales = round_to_nearest(dense, self._group, -8, 7, torch.float16)
        return PackedWeight(self.name, (rows, columns), {"codes": pack_int4(codes), "scales": scales})

    def unpack(self, weight: PackedWeight) -> Tensor:
        """The matrix that the codes stand for, fp32."""
        return dequantize(weight)

    def bits_per_weight(self, weight: PackedWeight) -> float:
        """Codes and scales."""
        return 8.0 * weight.nbytes / (weight.shape[0] * weight.shape[1])
