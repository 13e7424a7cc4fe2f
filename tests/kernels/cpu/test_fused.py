"""What is fused with a linear operation: the norm or the gate before it, the residual after it."""

import numpy as np
import pytest
import torch

from nearfield.kernels import reference
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import Norm
from tests.kernels.cpu import float_twin, twin
from tests.kernels.cpu.twin import bits

TOKENS = (1, 2, 5, 16, 67)
SIZES = (1, 8, 16, 80, 129, 896)


@pytest.mark.parametrize("size", SIZES)
def test_rms_norm_has_the_twins_bits(kernels: CpuKernels, size: int) -> None:
    rng = np.random.default_rng(size)
    x = (rng.standard_normal((19, size)) * rng.lognormal(0, 5, (19, 1))).astype(np.float32)
    weight = rng.standard_normal(size).astype(np.float32)
    norm = Norm(torch.from_numpy(weight), 1e-6)
    got = kernels.rms_norm(torch.from_numpy(x), norm)
    assert np.array_equal(bits(got), bits(float_twin.rms_norm(x, weight, 1e-6)))
    wide = Norm(torch.from_numpy(weight).double(), 1e-6)
    assert torch.allclose(got.double(), reference.rms_norm(torch.from_numpy(x).double(), wide), rtol=1e-5, atol=0)


def test_a_row_by_itself_is_the_same_row(kernels: CpuKernels) -> None:
    torch.manual_seed(0)
    wide = torch.randn(40, 300)
    norm = Norm(torch.randn(192), 1e-5)
    x = wide[:, 50:242]   # rows that lie apart
    together = kernels.rms_norm(x, norm)
    assert all(torch.equal(kernels.rms_norm(x[i:i + 1], norm)[0], together[i]) for i in range(40))


@pytest.mark.parametrize("format", ["w8", "w4"])
def test_fused_has_the_bits_of_its_parts(kernels: CpuKernels, format: str) -> None:
    rng = np.random.default_rng(4)
    weights = twin.random_weights(rng, format, 70, 192, 64)
    packed = weights.packed(kernels)
    bias, scale = rng.standard_normal(70).astype(np.float32), rng.standard_normal(192).astype(np.float32)
    norm = Norm(torch.from_numpy(scale), 1e-5)
    for m in TOKENS:
        x = rng.standard_normal((m, 384)).astype(np.float32) * 3
        residual = rng.standard_normal((m, 70)).astype(np.float32)
        parts = {"norm": float_twin.rms_norm(x[:, :192], scale, 1e-5), "gated": float_twin.gate(x)}
        got = {"norm": kernels.linear(torch.from_numpy(x[:, :192]), packed, torch.from_numpy(bias), norm=norm,
                                      residual=torch.from_numpy(residual)),
               "gated": kernels.linear(torch.from_numpy(x), packed, torch.from_numpy(bias), gated=True,
                                       residual=torch.from_numpy(residual))}
        for name, before in parts.items():
            assert np.array_equal(bits(got[name]), bits(twin.linear(before, weights, bias) + residual)), (name, m)


def test_the_gate_is_near_float64(kernels: CpuKernels) -> None:
    """Through the identity in int8: what is left is the rounding of activations, and the gate's own error."""
    x = torch.linspace(-100, 100, 64 * 64).view(64, 64)
    exact = reference.silu_mul(x.double())
    gates = float_twin.gate(x.numpy())
    assert np.abs(gates - exact.numpy()).max() <= 3e-7 * np.abs(exact.numpy()).max()


def test_exponential_is_within_two_units_in_the_last_place() -> None:
    x = np.linspace(-87, 88, 400_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(float_twin.exponential(x) - exact) / np.spacing(exact.astype(np.float32))).max() <= 2
    assert float_twin.exponential(np.array([-88, -1e30, 0], np.float32)).tolist() == [0, 0, 1]


def test_what_does_not_fit_is_refused(kernels: CpuKernels) -> None:
    packed = twin.random_weights(np.random.default_rng(0), "w8", 8, 64, 64).packed(kernels)
    x = torch.zeros(2, 64)
    with pytest.raises(ValueError, match=r"norm.weight must be \[64\]"):
        kernels.linear(x, packed, norm=Norm(torch.ones(63), 1e-5))
    with pytest.raises(ValueError, match=r"x must be \[M, 128\]"):
        kernels.linear(x, packed, gated=True)
    with pytest.raises(ValueError, match="residual must be"):
        kernels.linear(x, packed, residual=torch.zeros(3, 8))
    with pytest.raises(ValueError, match="both come before"):
        kernels.linear(torch.zeros(2, 128), packed, norm=Norm(torch.ones(64), 1e-5), gated=True)
    with pytest.raises(ValueError, match="side by side"):
        kernels.linear(x, packed, bias=torch.zeros(16)[::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_weights_fuse_alike(kernels: CpuKernels, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    packed = kernels.pack_dense(torch.randn(37, 101).to(dtype))
    norm = Norm(torch.randn(101), 1e-5)
    for m in TOKENS:
        x, residual = torch.randn(m, 202), torch.randn(m, 37)
        normed = kernels.rms_norm(x[:, :101], norm)
        gated = torch.from_numpy(float_twin.gate(x.numpy()))
        assert torch.equal(kernels.linear(x[:, :101], packed, norm=norm, residual=residual),
                           kernels.linear(normed, packed) + residual)
        assert torch.equal(kernels.linear(x, packed, gated=True, residual=residual),
                           kernels.linear(gated, packed) + residual)
