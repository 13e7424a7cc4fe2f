"""Rounding to nearest in C++: the codes and scales of `reference.round_to_nearest`, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.core.errors import ModelError
from nearfield.kernels import cpu, reference
from nearfield.kernels.cpu import _native
from nearfield.kernels.cpu.kernels import CpuKernels

RANGES = [(-127, 127), (-8, 7)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def equal(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 9), st.integers(1, 9), st.sampled_from([1, 15, 32, 64, 100, 128, 300]), st.sampled_from(RANGES),
       st.sampled_from(DTYPES), st.booleans(), st.integers(1, 3), st.integers(0, 2**32))
def test_any_shape_any_threads(n: int, groups: int, group: int, limits: tuple[int, int], dtype: torch.dtype,
                               half: bool, threads: int, seed: int) -> None:
    """Numbers from subnormal scales to the largest that 16 bits hold."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-12, 4, (n, groups, 1))
    dense = torch.from_numpy(rng.standard_normal((n, groups, group)) ** 3 * size).view(n, groups * group).to(dtype)
    dense = dense.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    scale_dtype = torch.float16 if half else torch.float32
    want = reference.round_to_nearest(dense, group, *limits, scale_dtype) if n else None
    for isa in _native.supported_isas():
        codes, scales = cpu.load(threads, isa).round_to_nearest(dense, group, *limits, scale_dtype)
        assert codes.shape == (n, groups * group) and scales.shape == (n, groups)
        assert want is None or equal((codes, scales), want), isa


def test_ties_zeros_and_halves_between(kernels: CpuKernels) -> None:
    """Halves go to even, zeros have the scale 1, and a scale between two fp16 goes to the nearest."""
    steps = torch.arange(-64, 64) / 2.0
    for size in (1.0, 2.0**-20, 3e-8, 1.0004885, 0.0):
        dense = (steps * size).repeat(3, 2)
        for group in (32, 128):
            got = kernels.round_to_nearest(dense, group, -8, 7, torch.float16)
            assert equal(got, reference.round_to_nearest(dense, group, -8, 7, torch.float16))
    assert set(got[1].flatten().tolist()) == {1.0} and not got[0].any()


def test_every_fp16_rounding(kernels: CpuKernels) -> None:
    """Spans in and between all fp16 numbers: one weight a group decides its scale."""
    bits = torch.arange(1, 31 << 10, dtype=torch.int16)
    exact = bits.view(torch.float16).float()
    for shift in (0.25, 0.5, 0.75):
        spans = torch.lerp(exact[:-1], exact[1:], shift)
        dense = torch.zeros(len(spans), 32)
        dense[:, 0] = spans * 7
        got = kernels.round_to_nearest(dense, 32, -8, 7, torch.float16)
        assert equal(got, reference.round_to_nearest(dense, 32, -8, 7, torch.float16))


def test_a_scale_beyond_fp16_clips(kernels: CpuKernels) -> None:
    dense = torch.full((2, 32), 1e30)
    codes, scales = kernels.round_to_nearest(dense, 32, -8, 7, torch.float16)
    assert equal((codes, scales), reference.round_to_nearest(dense, 32, -8, 7, torch.float16))
    assert scales.isfinite().all()


def test_rows_and_columns_may_lie_apart(kernels: CpuKernels) -> None:
    wide = torch.randn(64, 200, generator=torch.Generator().manual_seed(1))
    for apart in (wide[:, 8:136], wide.T[:, :64]):
        want = kernels.round_to_nearest(apart.contiguous(), 32, -8, 7, torch.float16)
        assert equal(kernels.round_to_nearest(apart, 32, -8, 7, torch.float16), want)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_that_is_not_finite_is_refused(kernels: CpuKernels, bad: float, dtype: torch.dtype) -> None:
    dense = torch.ones(5, 96, dtype=dtype)
    dense[3, 70] = bad
    for round_to_nearest in (kernels.round_to_nearest, reference.round_to_nearest):
        with pytest.raises(ModelError, match="not finite"):
            round_to_nearest(dense, 32, -8, 7, torch.float16)


@pytest.mark.parametrize(("shape", "dtype", "group", "limits", "scales", "message"), [
    ((4, 64), torch.int8, 32, (-8, 7), torch.float16, "bfloat16, float16 or float32"),
    ((64,), torch.float32, 32, (-8, 7), torch.float16, "must be a matrix"),
    ((4, 64), torch.float32, 48, (-8, 7), torch.float16, "groups of 48 columns"),
    ((4, 64), torch.float32, 32, (-8, 7), torch.bfloat16, "float16 or float32, not torch.bfloat16"),
    ((4, 64), torch.float32, 32, (-8, 300), torch.float16, "not int8"),
])
def test_other_calls_are_refused(kernels: CpuKernels, shape: tuple[int, ...], dtype: torch.dtype, group: int,
                                 limits: tuple[int, int], scales: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.round_to_nearest(torch.ones(shape, dtype=dtype), group, *limits, scales)
