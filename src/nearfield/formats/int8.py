"""int8 weights, one scale a row (output channel): codes [N, K] int8 and scales [N] fp32."""

import torch
from torch import Tensor

from nearfield.core.errors import ConfigError
from nearfield.formats.rounding import round_to_nearest
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference.quantized import dequantize

BLOCK = 32
"""Columns that the kernels take at once."""


class Int8:
    """Symmetric, -127 .. 127, rounded to nearest. Raises ConfigError for columns that the kernels cannot cut."""

    name = "int8"

    def pack(self, dense: Tensor) -> PackedWeight:
        """Quantise a matrix [N, K]."""
        rows, columns = dense.shape
        if columns % BLOCK:
            raise ConfigError(f"a matrix of {rows} x {columns} cannot be cut into blocks of {BLOCK} columns, in which "
                              "int8 codes are multiplied; serve it dense")
        codes, scales = round_to_nearest(dense, columns, -127, 127, torch.float32)
        return PackedWeight(self.name, (rows, columns), {"codes": codes, "scales": scales.flatten()})

    def unpack(self, weight: PackedWeight) -> Tensor:
        """The matrix that the codes stand for, fp32."""
        return dequantize(weight)

    def bits_per_weight(self, weight: PackedWeight) -> float:
        """Codes and scales."""
        return 8.0 * weight.nbytes / (weight.shape[0] * weight.shape[1])
