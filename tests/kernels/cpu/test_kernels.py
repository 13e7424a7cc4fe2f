"""Linear operations and quantisation: the bits of the twin on every instruction set, and near float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.kernels import cpu
from nearfield.kernels.cpu import _native
from nearfield.kernels.cpu.kernels import CpuKernels
from tests.kernels.cpu import twin
from tests.kernels.cpu.twin import bits

FORMATS = ("w8", "w8g", "w4", "w4z")
TOKENS = (0, 1, 2, 3, 7, 8, 16, 17, 64, 100)
SHAPES = ((1, 64), (15, 192), (48, 128), (83, 320))
"""Outputs and inputs: a single row, a block not full, three blocks at once, and odd numbers of groups."""


def activations(rng: np.random.Generator, m: int, k: int) -> twin.Array:
    """Some rows large, some small, one all zeros."""
    x = rng.standard_normal((m, k)) * rng.lognormal(0, 3, (m, 1))
    x[m // 2 : m // 2 + 1] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_linear_has_the_twins_bits(kernels: CpuKernels, format: str, n: int, k: int) -> None:
    rng = np.random.default_rng(n * k)
    for group, dtype in ((32, torch.float16), (64, torch.bfloat16)):
        weights = twin.random_weights(rng, format, n, k, group, dtype)
        packed = weights.packed(kernels)
        bias = rng.standard_normal(n).astype(np.float32)
        for m in TOKENS:
            x = activations(rng, m, k)
            y = kernels.linear(torch.from_numpy(x), packed, torch.from_numpy(bias))
            assert y.shape == (m, n)
            assert np.array_equal(bits(y), bits(twin.linear(x, weights, bias))), (group, m)


@pytest.mark.parametrize("format", FORMATS)
def test_groups_of_128(kernels: CpuKernels, format: str) -> None:
    rng = np.random.default_rng(3)
    weights = twin.random_weights(rng, format, 51, 3 * 128, 128)
    packed = weights.packed(kernels)
    for m in (1, 5, 33):
        x = activations(rng, m, 384)
        assert np.array_equal(bits(kernels.linear(torch.from_numpy(x), packed)), bits(twin.linear(x, weights)))


@pytest.mark.parametrize("format", FORMATS)
def test_more_tokens_and_columns_than_stay_near(kernels: CpuKernels, format: str) -> None:
    """Several chunks of columns by several steps of tokens, whose sums wait and end in turn."""
    rng = np.random.default_rng(17)
    for group, n, k in ((64, 40, 576), (128, 33, 640)):
        weights = twin.random_weights(rng, format, n, k, group)
        packed = weights.packed(kernels)
        x = activations(rng, 113, k)
        y = twin.linear(x, weights)
        for m in (9, 12, 16, 31, 33, 64, 65, 113):
            assert np.array_equal(bits(kernels.linear(torch.from_numpy(x[:m]), packed)), bits(y[:m])), (group, m)


@pytest.mark.parametrize("format", FORMATS)
def test_linear_is_near_float64(kernels: CpuKernels, format: str) -> None:
    """What is left is the quantisation of x: half a step of max|x| / 127, which averages out."""
    rng = np.random.default_rng(5)
    weights = twin.random_weights(rng, format, 40, 512, 64)
    x = rng.standard_normal((9, 512)).astype(np.float32)
    exact = x.astype(np.float64) @ weights.dense.T
    y = kernels.linear(torch.from_numpy(x), weights.packed(kernels)).double().numpy()
    assert np.linalg.norm(y - exact) < 0.012 * np.linalg.norm(exact)


@pytest.mark.parametrize("tokens", [3, 8, 16])
@pytest.mark.parametrize("format", ["w8", "w4"])
def test_a_large_vocabulary(format: str, tokens: int) -> None:
    """The offsets of rows beyond 2^17 and the last block, and results that pass the caches by; compared between
    instruction sets."""
    rng = np.random.default_rng(7)
    weights = twin.random_weights(rng, format, 151_936, 64, 64)
    x = activations(rng, tokens, 64)
    results = [bits(k.linear(torch.from_numpy(x), weights.packed(k)))
               for k in (cpu.load(2, isa) for isa in _native.supported_isas())]
    assert all(np.array_equal(results[0], other) for other in results[1:])
    rows = slice(151_900, 151_936)
    few = twin.PlainWeights(weights.codes[rows], weights.zeros[rows], weights.scales[rows], weights.group, format)
    assert np.array_equal(results[0][:, rows], bits(twin.linear(x, few)))


@pytest.mark.parametrize(("n", "before"), [(65_552, 0), (65_552, 1), (65_553, 0)])
def test_large_results_wherever_they_lie(kernels: CpuKernels, n: int, before: int) -> None:
    """Those that pass the caches by, of an odd number of blocks, and those that do not begin with a line of memory or
    whose rows do not."""
    rng = np.random.default_rng(n)
    weights = twin.random_weights(rng, "w8", n, 32, 32).packed(kernels)
    x = torch.from_numpy(activations(rng, 9, 32))
    out = torch.empty(9 * n + before)[before:].view(9, n)
    kernels.linear(x, weights, out=out)
    alone = torch.cat([kernels.linear(x[i:i + 1], weights) for i in range(9)])
    assert np.array_equal(bits(out), bits(alone))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 70), st.integers(1, 11), st.sampled_from([32, 64, 128]),
       st.integers(0, 300), st.integers(1, 3), st.booleans(), st.integers(0, 2**32))
def test_any_shape_any_threads(format: str, n: int, groups: int, group: int, m: int, threads: int,
                               biased: bool, seed: int) -> None:
    """Every instruction set, on some number of threads, agrees with the scalar one on one thread; and a
    token alone with itself among others."""
    rng = np.random.default_rng(seed)
    weights = twin.random_weights(rng, format, n, groups * group, group)
    x = torch.from_numpy(activations(rng, m, groups * group))
    bias = torch.from_numpy(rng.standard_normal(n).astype(np.float32)) if biased else None
    plain = cpu.load(1, "scalar")
    expected = bits(plain.linear(x, weights.packed(plain), bias))
    for isa in _native.supported_isas():
        kernels = cpu.load(threads, isa)
        packed = weights.packed(kernels)
        assert np.array_equal(bits(kernels.linear(x, packed, bias)), expected), isa
        if m:
            assert np.array_equal(bits(kernels.linear(x[-1:], packed, bias)), expected[-1:]), isa


def test_extreme_codes_and_long_rows(kernels: CpuKernels) -> None:
    """The largest products over the longest row: their sum must not wrap or saturate."""
    k = 131_072
    codes = np.stack([np.full(k, -128), np.full(k, 127)])
    weights = twin.PlainWeights(codes, np.zeros((2, 1), np.int64), torch.tensor([[1.0], [1e30]]), k, "w8")
    x = np.stack([np.full(k, 3.0), np.full(k, -3.0)]).astype(np.float32)
    y = kernels.linear(torch.from_numpy(x), weights.packed(kernels))
    assert np.array_equal(bits(y), bits(twin.linear(x, weights)))
    assert y[0, 0] == -128 * 127 * k * torch.tensor(3.0) / 127


def test_extreme_floats(kernels: CpuKernels) -> None:
    """Subnormal, tiny, huge and overflowing products have the same bits everywhere, NaN outputs included."""
    rng = np.random.default_rng(11)
    weights = twin.random_weights(rng, "w4", 20, 128, 32)
    scale = torch.tensor([6e-8, 1.0, 65504.0, -2.0], dtype=torch.float16)
    weights = twin.PlainWeights(weights.codes, weights.zeros, scale.repeat(20, 1), 32, "w4")
    x = rng.standard_normal((6, 128)).astype(np.float32)
    for row, size in enumerate((1e-40, 1e-31, 8e-31, 1e-36, 3e37, 1.0)):
        x[row] *= np.float32(size)
    y = kernels.linear(torch.from_numpy(x), weights.packed(kernels))
    expected = twin.linear(x, weights)
    finite = np.isfinite(expected)
    assert np.array_equal(np.isfinite(y.numpy()), finite) and not finite.all()
    assert np.array_equal(bits(y)[finite], bits(expected)[finite])


def test_quantize_has_the_twins_bits(kernels: CpuKernels) -> None:
    rng = np.random.default_rng(13)
    for m, k, group in ((0, 64, 32), (1, 896, 64), (5, 96, 96), (40, 1024, 128)):
        x = activations(rng, m, k)
        codes, scales, sums = kernels.quantize(torch.from_numpy(x), group)
        expected = twin.quantize(x, group)
        assert np.array_equal(codes.numpy(), expected[0])
        assert np.array_equal(bits(scales), bits(expected[1]))
        assert np.array_equal(sums.numpy(), expected[2])


def test_quantize_rounds_half_to_even(kernels: CpuKernels) -> None:
    x = torch.zeros(1, 32)
    x[0, :6] = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    codes, scales, sums = kernels.quantize(x, 32)
    assert codes[0, :6].tolist() == [127, 0, 2, 2, 0, -2]
    assert (scales.item(), sums.item()) == (1.0, 129)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_a_number_spoils_its_token_only(kernels: CpuKernels, bad: float) -> None:
    rng = np.random.default_rng(17)
    x = torch.from_numpy(activations(rng, 6, 128))
    x[4, 77] = bad
    codes, scales, _ = kernels.quantize(x, 32)
    assert codes[4, 64:96].abs().sum() == 0
    assert scales[4].isnan().tolist() == [False, False, True, False]
    weights = twin.random_weights(rng, "w4", 20, 128, 32)
    packed = weights.packed(kernels)
    y = kernels.linear(x, packed)
    assert y[4].isnan().all() and not y[[0, 1, 2, 3, 5]].isnan().any()
    assert np.array_equal(bits(y[4:5]), bits(kernels.linear(x[4:5], packed)))


def test_rows_of_x_may_lie_apart(kernels: CpuKernels) -> None:
    rng = np.random.default_rng(19)
    wide = torch.from_numpy(activations(rng, 10, 128))
    packed = twin.random_weights(rng, "w8", 20, 64, 64).packed(kernels)
    apart = wide[:, 32:96]
    assert torch.equal(kernels.linear(apart, packed), kernels.linear(apart.contiguous(), packed))


def test_a_librarys_denormal_mode_does_not_matter(kernels: CpuKernels) -> None:
    packed = kernels.pack_int8(torch.ones(40, 64, dtype=torch.int8), torch.full((40,), 1e-9))
    x = torch.full((2, 64), 1e-30)  # the product of scales is subnormal
    expected = kernels.linear(x, packed)
    assert expected.abs().min() > 0
    torch.set_flush_denormal(True)
    try:
        y = kernels.linear(x, packed)
    finally:
        torch.set_flush_denormal(False)
    assert np.array_equal(bits(y), bits(expected))


@pytest.mark.parametrize(("change", "message"), [
    (lambda k: k.pack_int8(torch.zeros(4, 40, dtype=torch.int8), torch.ones(4)), "multiple of 32"),
    (lambda k: k.pack_int8(torch.zeros(4, 64, dtype=torch.int8), torch.ones(5)), r"scales must be \[4\]"),
    (lambda k: k.pack_int8(torch.zeros(4, 64), torch.ones(4)), "codes must be a matrix of torch.int8"),
    (lambda k: k.pack_int8(torch.zeros(4, 64, dtype=torch.int8), torch.tensor([1, 1, float("nan"), 1])), "row 2"),
    (lambda k: k.pack_int8(torch.zeros(1, 131_104, dtype=torch.int8), torch.ones(1)), "131072"),
    (lambda k: k.pack_int8(torch.zeros(0, 64, dtype=torch.int8), torch.ones(0)), "empty"),
    (lambda k: _int4(k, 96, 64), "not a multiple of the group, 64"),
    (lambda k: _int4(k, 64, 48), "32, 64 or 128"),
    (lambda k: _int4(k, 64, 64, float("inf")), "not finite"),
    (lambda k: _int4(k, 64, 64, zero=16), "zero point above 15"),
    (lambda k: k.quantize(torch.zeros(2, 64), 48), "groups are a multiple of 32"),
])
def test_errors_name_what_is_wrong(kernels: CpuKernels, change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(ValueError, match=message):
        change(kernels)


def _int4(kernels: CpuKernels, k: int, group: int, scale: float = 1.0, zero: int = 8) -> object:
    shape = (3, k // group)
    return kernels.pack_int4(torch.zeros(3, k // 2, dtype=torch.uint8), torch.full(shape, scale, dtype=torch.float16),
                             group, torch.full(shape, zero, dtype=torch.uint8))


def test_linear_refuses_other_shapes(kernels: CpuKernels) -> None:
    packed = kernels.pack_int8(torch.zeros(4, 64, dtype=torch.int8), torch.ones(4))
    with pytest.raises(ValueError, match=r"x must be \[M, 64\]"):
        kernels.linear(torch.zeros(2, 32), packed)
    with pytest.raises(ValueError, match="side by side"):
        kernels.linear(torch.zeros(64, 2).T, packed)
    with pytest.raises(ValueError, match="bias must be"):
        kernels.linear(torch.zeros(2, 64), packed, torch.zeros(5))
