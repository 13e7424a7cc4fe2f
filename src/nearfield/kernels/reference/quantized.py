"""Weights of int8 and int4 codes back to numbers: what the codes mean, for every other backend to agree with.

int8: codes [N, K] int8, scales [N] fp32. int4: codes [N, K / 2] uint8, the column of even number in the
low half, scales [N, K / group] fp16; a weight is (code - 8) * scale.
"""

import torch
from torch import Tensor

from nearfield.kernels.ops import PackedWeight

INT4_ZERO = 8


def dequantize(weight: PackedWeight) -> Tensor:
    """The matrix [N, K] fp32 that an int8 or int4 weight stands for."""
    codes, scales = weight.tensors["codes"], weight.tensors["scales"]
    if weight.format == "int8":
        return codes.float() * scales[:, None]
    rows, groups = scales.shape
    return (unpack_int4(codes).view(rows, groups, -1).float() * scales[:, :, None].float()).flatten(1)


def dequantize_rows(weight: PackedWeight, rows: Tensor) -> Tensor:
    """Rows [T] of an int8 weight: [T, K] fp32."""
    return weight.tensors["codes"][rows].float() * weight.tensors["scales"][rows, None]


def pack_int4(codes: Tensor) -> Tensor:
    """Signed codes [N, K] in -8 .. 7 to uint8 [N, K / 2]."""
    shifted = (codes + INT4_ZERO).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """uint8 [N, K / 2] to signed codes [N, K] int8 in -8 .. 7."""
    pairs = torch.stack((packed & 15, packed >> 4), dim=-1)
    return pairs.flatten(1).to(torch.int8) - INT4_ZERO
