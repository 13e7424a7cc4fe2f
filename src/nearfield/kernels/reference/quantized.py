"""Weights of int8 and int4 codes back to numbers: what the codes mean, for every other backend to agree with.

int8: codes [N, K] int8; scales [N] fp32, or [N, K / group] fp16; a weight is code * scale.
int4: codes [N, K / 2] uint8, the column of even number in the low half; scales [N, K / group] fp16 or bf16;
zeros [N, K / group] uint8, 0 .. 15, where there are any; a weight is (code - zero) * scale, the zero being 8
where there are none.
"""

from dataclasses import replace

import torch
from torch import Tensor

from nearfield.kernels.ops import PackedWeight

INT4_ZERO = 8


def dequantize(weight: PackedWeight) -> Tensor:
    """The matrix [N, K] fp32 that an int8 or int4 weight stands for."""
    codes, scales = weight.tensors["codes"], weight.tensors["scales"]
    if weight.format == "int4":
        codes = unpack_int4(codes)
    if scales.dim() == 1:
        scales = scales[:, None]
    grouped = codes.float().view(*scales.shape, -1)    # [N, K / group, group]
    if "zeros" in weight.tensors:
        grouped = grouped + (INT4_ZERO - weight.tensors["zeros"].float())[:, :, None]
    return (grouped * scales.float()[:, :, None]).flatten(1)


def dequantize_rows(weight: PackedWeight, rows: Tensor) -> Tensor:
    """Rows [T] of an int8 or int4 weight: [T, K] fp32."""
    return dequantize(replace(weight, tensors={name: tensor[rows] for name, tensor in weight.tensors.items()}))


def pack_int4(codes: Tensor) -> Tensor:
    """Signed codes [N, K] in -8 .. 7 to uint8 [N, K / 2]."""
    shifted = (codes + INT4_ZERO).to(torch.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """uint8 [N, K / 2] to signed codes [N, K] int8 in -8 .. 7."""
    pairs = torch.stack((packed & 15, packed >> 4), dim=-1)
    return pairs.flatten(1).to(torch.int8) - INT4_ZERO
