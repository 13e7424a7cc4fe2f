"""A model in one call, in which the gate may be the end of gate_up, against the operations one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nearfield.kernels.cpu.backend import CpuBackend
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import (
    AttnPlan,
    AttnRow,
    BoundDecoder,
    DecoderWeights,
    Heads,
    KVLayer,
    KVShape,
    LayerWeights,
    Norm,
    PackedWeight,
)
from tests.kernels.cpu import sequences, twin

HEADS = Heads(1, 64)
PAGE, VOCABULARY, POSITIONS = 64, 99, 640
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


def decoder(kernels: CpuKernels, layers: list[LayerWeights]) -> DecoderWeights:
    rng = np.random.default_rng(3)
    table = twin.random_weights(rng, "w8", VOCABULARY, HIDDEN, HIDDEN).packed(kernels)
    return DecoderWeights(PackedWeight("int8", (VOCABULARY, HIDDEN), {}, table), layers,
                          Norm(torch.from_numpy(rng.standard_normal(HIDDEN).astype(np.float32)), 1e-6),
                          sequences.angles(range(POSITIONS), HEADS.head_dim))


def caches(kernels: CpuKernels, layers: int, pages: int) -> tuple[KVLayer, ...]:
    return kernels.new_kv(KVShape(layers, HEADS.kv_heads, HEADS.head_dim, PAGE), pages, torch.bfloat16)


def one_by_one(ops: CpuBackend, weights: DecoderWeights, tokens: Tensor, positions: Tensor,
               caches: tuple[KVLayer, ...], plan: AttnPlan) -> Tensor:
    cos, sin = weights.angles
    x = ops.embed(tokens, weights.table, torch.float32)
    for layer, cache in zip(weights.layers, caches, strict=True):
        qkv = ops.linear(x, layer.qkv, norm=layer.attn_norm)
        attended = ops.attention(qkv, HEADS, (cos[positions], sin[positions]), cache, plan)
        middle = ops.linear(attended, layer.out, residual=x)
        up = ops.linear(middle, layer.gate_up, layer.gate_up_bias, norm=layer.mlp_norm)
        x = ops.linear(up, layer.down, gated=True, residual=middle)
    return ops.rms_norm(x, weights.norm)


@pytest.mark.parametrize(("format", "group", "inner"), [
    ("w8", 0, 192), ("w8", 0, 224), ("w8g", 64, 192), ("w4", 64, 192), ("w4", 128, 384), ("w4z", 64, 320),
    ("w4", 32, 96), ("dense", 0, 72)])
def test_a_decoder_has_the_bits_of_its_operations(kernels: CpuKernels, format: str, group: int, inner: int) -> None:
    weights, ops = decoder(kernels, [layer(kernels, format, group, inner)] * 2), CpuBackend(kernels)
    bound = ops.bind(weights)
    for count in TOKENS:
        torch.manual_seed(count)
        tokens, positions = torch.randint(VOCABULARY, (count,)), torch.arange(count)
        pages = tuple(range(-(-count // PAGE)))
        plan = AttnPlan((AttnRow(0, count, 0, pages),), PAGE)
        expected = one_by_one(ops, weights, tokens, positions, caches(kernels, 2, len(pages)), plan)
        found = bound(tokens, positions, caches(kernels, 2, len(pages)), plan)
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32)), count


def test_rows_have_the_angles_of_their_positions(kernels: CpuKernels) -> None:
    """Two rows that begin elsewhere, the later one first."""
    weights, ops = decoder(kernels, [layer(kernels, "w8", 0, 192)]), CpuBackend(kernels)
    tokens, positions = torch.tensor([7, 1, 2, 50]), torch.tensor([90, 10, 11, 12])
    plan = AttnPlan((AttnRow(0, 1, 90, (3, 0)), AttnRow(1, 3, 10, (1,))), PAGE)
    one, other = caches(kernels, 1, 4), caches(kernels, 1, 4)
    for layer_ in (*one, *other):
        layer_.k.fill_(0.25)
        layer_.v.fill_(0.5)
    expected = one_by_one(ops, weights, tokens, positions, one, plan)
    found = ops.bind(weights)(tokens, positions, other, plan)
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert torch.equal(one[0].k, other[0].k)


@pytest.fixture(scope="module")
def bound(kernels: CpuKernels) -> BoundDecoder:
    return CpuBackend(kernels).bind(decoder(kernels, [layer(kernels, "w8", 0, 192)]))


@pytest.mark.parametrize(("tokens", "positions", "error", "says"), [
    ([1, VOCABULARY], [0, 1], IndexError, f"token {VOCABULARY} is not in a table of {VOCABULARY} rows"),
    ([-1, 1], [0, 1], IndexError, "token -1 is not"),
    ([1, 1], [0, POSITIONS], IndexError, f"position {POSITIONS} is not one of the {POSITIONS}"),
    ([1, 1], [-1, 0], IndexError, "position -1 is not"),
    ([1, 1], [0], ValueError, r"positions must be \[2\] int64")])
def test_what_the_model_does_not_have_is_refused(kernels: CpuKernels, bound: BoundDecoder, tokens: list[int],
                                                 positions: list[int], error: type[Exception], says: str) -> None:
    plan = AttnPlan((AttnRow(0, 2, 0, (0,)),), PAGE)
    with pytest.raises(error, match=says):
        bound(torch.tensor(tokens), torch.tensor(positions), caches(kernels, 1, 1), plan)


def test_parts_that_do_not_fit_are_refused(kernels: CpuKernels) -> None:
    weights = decoder(kernels, [layer(kernels, "w8", 0, 192)])
    backend = CpuBackend(kernels)
    with pytest.raises(ValueError, match=rf"the last norm must be \[{HIDDEN}\]"):
        backend.bind(replace(weights, norm=Norm(torch.ones(3), 1e-6)))
    with pytest.raises(ValueError, match="sin must be"):
        backend.bind(replace(weights, angles=(weights.angles[0], weights.angles[1][:4])))
    table = twin.random_weights(np.random.default_rng(1), "w8", 8, 64, 64).packed(kernels)
    with pytest.raises(ValueError, match="do not fit"):
        backend.bind(replace(weights, table=PackedWeight("int8", (8, 64), {}, table), norm=Norm(torch.ones(64), 1e-6)))
