"""The operations that look at one token at a time: linear, embed, rms_norm, rope, silu_mul."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nearfield.kernels.ops import PackedWeight


def linear(x: Tensor, weight: PackedWeight, bias: Tensor | None) -> Tensor:
    """x [T, in] times weight [out, in] transposed, plus bias [out]: [T, out] in x's dtype."""
    return F.linear(x, weight.tensors["weight"], bias)


def embed(tokens: Tensor, weight: PackedWeight) -> Tensor:
    """Rows `tokens` [T] (int64) of the table weight [V, D]: [T, D]."""
    return F.embedding(tokens, weight.tensors["weight"])


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019)."""
    return F.rms_norm(x, weight.shape, weight, eps)


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
