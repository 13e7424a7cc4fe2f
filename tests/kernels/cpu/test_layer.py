"""All layers in one call, in which the gate may be the end of gate_up, against the operations one by one."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nearfield.kernels.cpu.backend import CpuBackend
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import AttnPlan, AttnRow, Heads, KVShape, LayerWeights, Norm, PackedWeight
from tests.kernels.cpu import sequences, twin

HEADS = Heads(1, 64)
HIDDEN = 640
"""Columns of more than one chunk of the AMX kernels."""
TOKENS = (1, 3, 8, 12, 13, 16, 17, 33, 70, 530)
"""As many as come with pairs of blocks, and more; tiles and pairs of tiles of tokens that are full, and that are
not; more than one slab."""


def layer(kernels: CpuKernels, format: str, group: int, inner: int) -> LayerWeights:
    rng = np.random.default_rng(inner)

    def matrix(n: int, k: int) -> PackedWeight:
        if format == "dense":
            weight = torch.from_numpy(rng.standard_normal((n, k)).astype(np.float32)) / 32
            return PackedWeight("dense", (n, k), {}, kernels.pack_dense(weight.bfloat16()))
        return PackedWeight(format, (n, k), {}, twin.random_weights(rng, format, n, k, group).packed(kernels))

    def vector(size: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(size).astype(np.float32))

    query = HEADS.head_dim * 2
    return LayerWeights(HEADS, Norm(vector(HIDDEN), 1e-6), matrix(query + 2 * HEADS.head_dim, HIDDEN), None,
                        matrix(HIDDEN, query), None, Norm(vector(HIDDEN), 1e-6), matrix(2 * inner, HIDDEN),
                        vector(2 * inner) if inner != 192 else None, matrix(HIDDEN, inner), None)


@pytest.mark.parametrize(("format", "group", "inner"), [
    ("w8", 0, 192), ("w8", 0, 224), ("w8g", 64, 192), ("w4", 64, 192), ("w4", 128, 384), ("w4z", 64, 320),
    ("w4", 32, 96), ("dense", 0, 72)])
def test_layers_have_the_bits_of_their_operations(kernels: CpuKernels, format: str, group: int, inner: int) -> None:
    weights = layer(kernels, format, group, inner)
    ops = CpuBackend(kernels)
    layers = ops.bind_layers([weights])
    for tokens in TOKENS:
        torch.manual_seed(tokens)
        x, rotation = torch.randn(tokens, HIDDEN), sequences.angles(range(tokens), HEADS.head_dim)
        x[tokens // 2, 0] = torch.nan if tokens == 33 else 1.0
        pages = tuple(range(-(-tokens // 64)))
        plan = AttnPlan((AttnRow(0, tokens, 0, pages),), 64)
        shape = KVShape(1, HEADS.kv_heads, HEADS.head_dim, 64)
        one, other = (kernels.new_kv(shape, len(pages), torch.bfloat16) for _ in range(2))
        qkv = ops.linear(x, weights.qkv, norm=weights.attn_norm)
        middle = ops.linear(ops.attention(qkv, HEADS, rotation, one[0], plan), weights.out, residual=x)
        up = ops.linear(middle, weights.gate_up, weights.gate_up_bias, norm=weights.mlp_norm)
        expected = ops.linear(up, weights.down, gated=True, residual=middle)
        assert torch.equal(layers(x, rotation, other, plan).view(torch.int32), expected.view(torch.int32)), tokens
