"""Dense weights: the bits of the twin on every instruction set, near float64, and rows of packed tables."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nearfield.kernels import cpu
from nearfield.kernels.cpu import _native
from nearfield.kernels.cpu.kernels import CpuKernels
from tests.kernels.cpu import dense_twin, twin
from tests.kernels.cpu.twin import Array, bits

DTYPES = (torch.float32, torch.bfloat16)
PROFILES = {torch.float32: ("cpu-fp32-v2",), torch.bfloat16: ("cpu-bf16-fma-v2", "cpu-bf16-dp-v2", "cpu-bf16-amx-v2")}
PAIRED = "cpu-bf16-dp-v2"
"""The one profile that the twin does not describe: its products are the processor's own."""


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Array:
    """The sums in float64, of activations rounded as the weights are."""
    return np.asarray((x.to(weight.dtype).double() @ weight.double().T + bias).numpy())


def by_profile(x: Tensor, weight: Tensor, bias: Tensor | None, threads: int = 2) -> dict[str, list[Array]]:
    """The bits that each instruction set gives, under the profile that it claims."""
    found: dict[str, list[Array]] = {}
    for isa in _native.supported_isas():
        kernels = cpu.load(threads, isa)
        y = kernels.linear(x, kernels.pack_dense(weight), bias)
        found.setdefault(kernels.profile(("dense",), weight.dtype), []).append(bits(y))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 7), (15, 2), (83, 129), (50, 300)])
def test_linear_has_the_twins_bits(kernels: CpuKernels, dtype: torch.dtype, n: int, k: int) -> None:
    """Whatever number of tokens come together. K of 129 and 300 end within a piece of the tile's depth."""
    rng = np.random.default_rng(n * k)
    x, weight, bias = normal(rng, 17, k), normal(rng, n, k).to(dtype), normal(rng, n)
    packed = kernels.pack_dense(weight)
    profile = kernels.profile(("dense",), dtype)
    expected = bits(kernels.linear(x, packed, bias) if profile == PAIRED
                    else dense_twin.linear(x, weight, bias.numpy(), profile))
    for m in range(18):
        y = kernels.linear(x[:m], packed, bias)
        assert y.shape == (m, n)
        assert np.array_equal(bits(y), expected[:m]), m
        assert np.array_equal(bits(kernels.linear(x[m:], packed, bias)), expected[m:]), m


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(130, 896), (33, 897), (70, 2048)])
def test_many_tokens(dtype: torch.dtype, n: int, k: int) -> None:
    """Near float64, and the same bits for any threads; 300 tokens are more than a task has, and 2048 columns
    are those that panels are set apart for."""
    rng = np.random.default_rng(n + k)
    x, weight, bias = normal(rng, 300, k), normal(rng, n, k).to(dtype), normal(rng, n)
    truth = exact(x, weight, bias)
    for m in (64, 130, 300):
        for profile, results in by_profile(x[:m], weight, bias).items():
            assert profile in PROFILES[dtype]
            assert all(np.array_equal(results[0], other) for other in results), (profile, m)
            y = results[0].view(np.float32)
            assert np.abs(y - truth[:m]).max() < 1e-5 * np.abs(truth).max()
    best = cpu.load(1)
    packed = best.pack_dense(weight)
    expected = bits(best.linear(x, packed, bias))
    for threads in (2, 4):
        several = cpu.load(threads)
        assert np.array_equal(bits(several.linear(x, several.pack_dense(weight), bias)), expected)
    for token in (0, 63, 64, 255, 256, 299):
        assert np.array_equal(bits(best.linear(x[token : token + 1], packed, bias)), expected[token : token + 1])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(1, 70), st.integers(1, 400), st.integers(0, 80), st.integers(1, 4),
       st.booleans(), st.integers(0, 2**32))
def test_any_shape_any_threads(dtype: torch.dtype, n: int, k: int, m: int, threads: int, biased: bool,
                               seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, m, k), normal(rng, n, k).to(dtype)
    bias = normal(rng, n) if biased else None
    alone = by_profile(x, weight, bias, threads=1)
    for profile, results in by_profile(x, weight, bias, threads).items():
        assert all(np.array_equal(alone[profile][0], other) for other in results), profile


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_vocabulary(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(7)
    x, weight, bias = normal(rng, 3, 7), normal(rng, 151_936, 7).to(dtype), normal(rng, 151_936)
    for results in by_profile(x, weight, bias).values():
        assert all(np.array_equal(results[0], other) for other in results)
        assert np.abs(results[0].view(np.float32) - exact(x, weight, bias)).max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_spread_as_they_must(kernels: CpuKernels, dtype: torch.dtype) -> None:
    """To the outputs that they touch, and to no other token; every NaN is one and the same."""
    rng = np.random.default_rng(13)
    x, weight = normal(rng, 6, 40), normal(rng, 20, 40).to(dtype)
    plain = kernels.linear(x, kernels.pack_dense(weight))
    x[1, 3], x[2, 5], x[3, 7], x[3, 8] = float("nan"), float("inf"), float("inf"), float("-inf")
    weight[4, 5], weight[5, 9], weight[6, 11], weight[7, 39] = 0.0, float("inf"), float("nan"), -float("inf")
    y = kernels.linear(x, kernels.pack_dense(weight))
    truth = torch.from_numpy(exact(x, weight, torch.zeros(20))).float()
    assert torch.equal(y.isnan(), truth.isnan()) and torch.equal(y[y.isinf()], truth[y.isinf()])
    assert set(bits(y[y.isnan()]).tolist()) == {dense_twin.NAN_BITS}
    clean = [row for row in range(20) if row not in (4, 5, 6, 7)]
    assert np.array_equal(bits(y[[0, 4, 5]][:, clean]), bits(plain[[0, 4, 5]][:, clean]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_floats(kernels: CpuKernels, dtype: torch.dtype) -> None:
    """Subnormal operands, products and sums, and sums beyond the largest float."""
    if kernels.profile(("dense",), dtype) in (PAIRED, dense_twin.AMX):
        pytest.skip("vdpbf16ps and AMX take subnormals for zero")
    rng = np.random.default_rng(11)
    weight = (normal(rng, 20, 33) * torch.tensor([1e-39, 1.0, 1e19, 3e38]).repeat(5)[:, None]).to(dtype)
    x = normal(rng, 6, 33) * torch.tensor([1e-40, 1e-38, 1e-20, 1.0, 1e20, 3e38])[:, None]
    assert np.array_equal(bits(kernels.linear(x, kernels.pack_dense(weight))), bits(dense_twin.linear(x, weight)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_round_half_to_even(kernels: CpuKernels, dtype: torch.dtype) -> None:
    """1 + 2^-8 lies between two bf16, and 1 + 3 * 2^-8 too."""
    x = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8]])
    y = kernels.linear(x, kernels.pack_dense(torch.eye(2, dtype=dtype)))
    assert y.tolist() == (x if dtype == torch.float32 else torch.tensor([[1.0, 1 + 2**-6]])).tolist()


def test_a_librarys_denormal_mode_does_not_matter(kernels: CpuKernels) -> None:
    packed = kernels.pack_dense(torch.full((20, 3), 1e-20))
    x = torch.full((2, 3), 1e-20)  # the products are subnormal
    expected = kernels.linear(x, packed)
    assert expected.min() > 0
    torch.set_flush_denormal(True)
    try:
        y = kernels.linear(x, packed)
    finally:
        torch.set_flush_denormal(False)
    assert np.array_equal(bits(y), bits(expected))


@pytest.mark.parametrize(("dtype", "golden"), [
    (torch.float32, "b614993fc8b3ce4a"),
    (torch.bfloat16, "07d9b2476397d008"),
])
def test_golden_bits(kernels: CpuKernels, dtype: torch.dtype, golden: str) -> None:
    """The arithmetic of cpu-fp32 and cpu-bf16-fma as they were defined: other bits need another id."""
    if kernels.profile(("dense",), dtype) in (PAIRED, dense_twin.AMX):
        pytest.skip("this instruction set's profile is another one")
    whole = torch.arange(37 * 301, dtype=torch.int64) * 7919 % 10007
    weight = ((whole.float() - 5003) / 4096).reshape(37, 301).to(dtype)
    x = ((torch.arange(5 * 301) * 6133 % 9973).float() - 4986).reshape(5, 301) / 512
    y = bits(kernels.linear(x, kernels.pack_dense(weight), torch.arange(37).float() / 8))
    assert hashlib.sha256(y.astype("<i4").tobytes()).hexdigest()[:16] == golden


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_x_may_lie_apart(kernels: CpuKernels, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(19)
    wide, packed = normal(rng, 10, 128), kernels.pack_dense(normal(rng, 20, 65).to(dtype))
    apart = wide[:, 32:97]
    assert torch.equal(kernels.linear(apart, packed), kernels.linear(apart.contiguous(), packed))


@pytest.mark.parametrize("k", [1, 7, 300, 896])
@pytest.mark.parametrize("dtype", DTYPES)
def test_embed_gives_the_rows_that_were_packed(kernels: CpuKernels, dtype: torch.dtype, k: int) -> None:
    rng = np.random.default_rng(k)
    table = normal(rng, 83, k).to(dtype)
    tokens = torch.from_numpy(rng.integers(0, 83, 200))
    tokens[:3] = torch.tensor([0, 82, 82])
    assert torch.equal(kernels.embed(tokens, kernels.pack_dense(table)), table[tokens].float())
    assert kernels.embed(tokens[:0], kernels.pack_dense(table)).shape == (0, k)


def test_embed_of_codes(kernels: CpuKernels) -> None:
    """A code times its row's scale, rounded once; a linear operation reads the same table."""
    rng = np.random.default_rng(3)
    weights = twin.random_weights(rng, "w8", 51, 96, 96)
    codes, scales = torch.from_numpy(weights.codes), weights.scales
    packed = weights.packed(kernels)
    tokens = torch.tensor([50, 0, 17, 0])
    assert torch.equal(kernels.embed(tokens, packed), codes[tokens].float() * scales[tokens])


@pytest.mark.parametrize("wrong", [-1, 20, 2**40])
def test_embed_refuses_tokens_that_are_not_there(kernels: CpuKernels, wrong: int) -> None:
    packed = kernels.pack_dense(torch.zeros(20, 4))
    with pytest.raises(IndexError, match=f"token {wrong} is not in a table of 20 rows"):
        kernels.embed(torch.tensor([0, wrong, 19]), packed)


def test_errors_name_what_is_wrong(kernels: CpuKernels) -> None:
    with pytest.raises(ValueError, match=r"float32 or bfloat16, not \[4, 64\] torch.float16"):
        kernels.pack_dense(torch.zeros(4, 64, dtype=torch.float16))
    with pytest.raises(ValueError, match="must be a matrix"):
        kernels.pack_dense(torch.zeros(4))
    with pytest.raises(ValueError, match=r"weights \[0, 64\] are empty"):
        kernels.pack_dense(torch.zeros(0, 64))
    with pytest.raises(ValueError, match=r"x must be \[M, 3\]"):
        kernels.linear(torch.zeros(2, 4), kernels.pack_dense(torch.zeros(5, 3)))
    with pytest.raises(ValueError, match=r"tokens must be \[T\] int64, not \[2\] torch.int32"):
        kernels.embed(torch.zeros(2, dtype=torch.int32), kernels.pack_dense(torch.zeros(5, 3)))
    grouped = twin.random_weights(np.random.default_rng(0), "w4", 20, 64, 32).packed(kernels)
    with pytest.raises(ValueError, match="as int8 with one scale a row"):
        kernels.embed(torch.tensor([0]), grouped)
