"""The token-wise operations against plain float64 arithmetic."""

import math

import pytest
import torch

from nearfield.formats.dense import Dense
from nearfield.kernels import reference
from nearfield.kernels.ops import Norm

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(params=CLOSE, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    torch.manual_seed(0)
    return chosen


def close(got: torch.Tensor, want: torch.Tensor) -> bool:
    return bool(((got.double() - want).abs() <= CLOSE[got.dtype] * (1 + want.abs())).all())


def test_rms_norm(dtype: torch.dtype) -> None:
    x, weight = (torch.randn(5, 3, 24) * 10).to(dtype), torch.randn(24).to(dtype)
    exact = x.double()
    want = exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert close(reference.rms_norm(x, Norm(weight, 1e-5)), want)


def test_rope_turns_pairs_of_the_two_halves(dtype: torch.dtype) -> None:
    x = torch.randn(4, 2, 6).to(dtype)
    angles = torch.rand(4, 3, dtype=torch.float64) * 7
    got = reference.rope(x, angles.cos().float(), angles.sin().float())
    want = torch.empty(4, 2, 6, dtype=torch.float64)
    for t in range(4):
        for h in range(2):
            for i in range(3):
                point = complex(float(x[t, h, i]), float(x[t, h, i + 3]))
                turned = point * complex(math.cos(angles[t, i]), math.sin(angles[t, i]))
                want[t, h, i], want[t, h, i + 3] = turned.real, turned.imag
    assert got.dtype == dtype and close(got, want)


def test_silu_mul(dtype: torch.dtype) -> None:
    x = torch.randn(5, 14).to(dtype)
    gate, up = x[:, :7].double(), x[:, 7:].double()
    assert close(reference.silu_mul(x), gate / (1 + (-gate).exp()) * up)


def test_linear_and_embed(dtype: torch.dtype) -> None:
    weight = Dense().pack(torch.randn(9, 16).to(dtype))
    x, bias = torch.randn(5, 16).to(dtype), torch.randn(9).to(dtype)
    table = weight.tensors["weight"].double()
    assert close(reference.linear(x, weight, bias), x.double() @ table.T + bias.double())
    assert close(reference.linear(x, weight, None), x.double() @ table.T)
    tokens = torch.tensor([8, 0, 8])
    assert torch.equal(reference.embed(tokens, weight, dtype).double(), table[tokens])


def test_the_dense_format_is_the_matrix_itself(dtype: torch.dtype) -> None:
    matrix = torch.randn(6, 4).to(dtype)
    weight = Dense().pack(matrix)
    assert torch.equal(Dense().unpack(weight), matrix) and weight.shape == (6, 4)
    assert Dense().bits_per_weight(weight) == 8 * dtype.itemsize
