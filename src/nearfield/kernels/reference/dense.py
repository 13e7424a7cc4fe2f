"""The operations that look at one token at a time: embed, linear and what is fused with it, rms_norm, rope."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nearfield.kernels.ops import Norm, PackedWeight, Prepared
from nearfield.kernels.reference.quantized import dequantize, dequantize_rows


def prepare(weight: PackedWeight) -> PackedWeight:
    """Lay a weight out for this backend's `linear`: as it is."""
    return weight


def blank(layout: Sequence[int]) -> Prepared:
    """Room for a prepared weight, read from a file: this backend prepares none. Raises ValueError."""
    raise ValueError(f"the reference backend has no prepared weights, such as one of layout {list(layout)}")


def linear(x: Tensor, weight: PackedWeight, bias: Tensor | None = None, *, norm: Norm | None = None,
           gated: bool = False, residual: Tensor | None = None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, plus bias [out]: [T, out] in x's dtype.

    Before it, where asked for: `norm` of x, or with `gated` silu_mul of x [T, 2 in]. After it: plus
    `residual` [T, out]. A quantised weight is made dense at every call: right, and slow.
    """
    if norm is not None:
        x = rms_norm(x, norm)
    if gated:
        x = silu_mul(x)
    dense = weight.tensors["weight"] if weight.format == "dense" else dequantize(weight).to(x.dtype)
    y = F.linear(x, dense, bias)
    return y if residual is None else residual + y


def embed(tokens: Tensor, weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """Rows `tokens` [T] (int64) of the table weight [V, D], dense or int8: [T, D] in `dtype`."""
    if weight.format == "dense":
        return F.embedding(tokens, weight.tensors["weight"])
    return dequantize_rows(weight, tokens).to(dtype)


def rms_norm(x: Tensor, norm: Norm) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019)."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + d/2) of x [T, heads, d] by the angles whose cos and sin are [T, d/2].

    Su et al. 2021, in the half-split form of Hugging Face checkpoints. Computed in fp32.
    """
    low, high = x.float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)


def silu_mul(x: Tensor) -> Tensor:
    """silu(gate) * up of x [T, 2F] = (gate, up): [T, F] (the gate of SwiGLU, Shazeer 2020)."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
