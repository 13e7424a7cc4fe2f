"""GPTQ against the algorithm as published, in plain float64 loops, and against rounding to nearest."""

import gc
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from nearfield.compress.gram import Gram, row_errors
from nearfield.compress.quantize.awq import Awq
from nearfield.compress.quantize.choose import METHODS, quantise
from nearfield.compress.quantize.gptq import gptq
from nearfield.compress.quantize.scales import dequantized, weighted_scales
from nearfield.core.errors import ModelError
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.kernels.reference import round_to_nearest

Floats = npt.NDArray[np.float64]
LOW, HIGH = -8, 7
ROWS = 24


def inputs(seed: int, columns: int, tokens: int = 400) -> Tensor:
    """Inputs [T, K] as layers have them: few directions matter, some columns are much larger than others."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, columns // 4, generator=random) @ torch.randn(columns // 4, columns, generator=random)
    sizes = torch.randn(columns, generator=random).exp()
    return (mixed + 0.3 * torch.randn(tokens, columns, generator=random)) * sizes


def gram_of(x: Tensor) -> Tensor:
    gram = Gram(x.shape[1])
    gram.add(x)
    return gram.matrix()


def matrix(seed: int, columns: int) -> Tensor:
    return torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(100 + seed)) * 0.05


def objective(made: Tensor, dense: Tensor, gram: Tensor) -> Tensor:
    """tr(E H E^T), row by row."""
    return row_errors(made - dense, gram)


def published(dense: Tensor, gram: Tensor, scales: Tensor, *, by_size: bool) -> Tensor:
    """GPTQ's algorithm 1 (arXiv 2210.17323) with given scales [N, K / group], one weight at a time, in float64.

    by_size: columns in the order of falling diag H, with groups as they lie (act_order with static groups).
    """
    w, h, wide = (np.asarray(t.double()) for t in (dense, gram, scales.repeat_interleave(
        dense.shape[1] // scales.shape[1], 1)))
    order = np.argsort(-np.diag(h), kind="stable") if by_size else np.arange(len(h))
    damped = h[np.ix_(order, order)] + 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    made: Floats = np.zeros_like(w)
    for row in range(len(w)):
        left = w[row, order].copy()
        for at, column in enumerate(order):
            scale = wide[row, column]
            made[row, column] = scale * min(max(np.rint(left[at] / scale), LOW), HIGH)
            error = (left[at] - made[row, column]) / upper[at, at]
            for later in range(at, len(left)):
                left[later] -= error * upper[at, later]
    return torch.from_numpy(made)


@pytest.mark.parametrize("by_size", [False, True], ids=["in order", "by size"])
@pytest.mark.parametrize(("seed", "columns", "group"), [(0, 64, 32), (1, 64, 64), (2, 96, 32), (3, 128, 128)])
def test_no_worse_than_the_algorithm_as_published(seed: int, columns: int, group: int, by_size: bool) -> None:
    dense, gram = matrix(seed, columns), gram_of(inputs(seed, columns))
    codes, scales = gptq(dense, group, LOW, HIGH, torch.float16, gram=gram)
    ours = objective(dequantized(codes, scales), dense, gram).sum()
    spans = (dense.view(ROWS, -1, group).abs().amax(-1) / 7.5).half()
    for given in (spans, weighted_scales(dense, gram.diagonal(), group, LOW, HIGH, torch.float16)):
        assert ours <= objective(published(dense, gram, given, by_size=by_size), dense, gram).sum()


@pytest.mark.parametrize("tokens", [1, 7, 60, 2000], ids=lambda n: f"{n} tokens")
@pytest.mark.parametrize("group", [32, 64])
def test_no_row_is_worse_than_rounded_to_nearest(tokens: int, group: int) -> None:
    """Fewer tokens than columns make an H of lower rank."""
    for seed in range(8):
        dense, gram = matrix(seed, 64), gram_of(inputs(seed, 64, tokens))
        codes, scales = gptq(dense, group, LOW, HIGH, torch.float16, gram=gram)
        plain = dequantized(*round_to_nearest(dense, group, LOW, HIGH, torch.float16))
        assert codes.dtype == torch.int8 and int(codes.min()) >= LOW and int(codes.max()) <= HIGH
        ours, theirs = objective(dequantized(codes, scales), dense, gram), objective(plain, dense, gram)
        assert bool((ours <= theirs).all())


def test_it_is_much_better_where_inputs_are_alike() -> None:
    """What makes the method worth its time: ten times, not a few per cent."""
    dense, gram = matrix(0, 128), gram_of(inputs(0, 128))
    found = {method: quantise(method, Int4(64), dense, None, gram).error for method in METHODS}
    assert found["gptq"] < 0.5 * found["rtn"] and found["awq"] < found["rtn"]
    assert found["auto"] == min(found.values())


def test_columns_that_are_never_used_and_an_input_that_is_always_the_same() -> None:
    """What a text that repeats itself leaves: an H that cannot be factored undamped."""
    dense, x = matrix(5, 64), inputs(5, 64)
    dead = x.clone()
    dead[:, [0, 17, 63]] = 0.0
    same = x[:1].expand(300, -1)
    for gram in (gram_of(dead), gram_of(same), torch.zeros(64, 64, dtype=torch.float64)):
        codes, scales = gptq(dense, 32, LOW, HIGH, torch.float16, gram=gram)
        assert bool(scales.isfinite().all()) and bool((scales > 0).all())
        plain = dequantized(*round_to_nearest(dense, 32, LOW, HIGH, torch.float16))
        assert bool((objective(dequantized(codes, scales), dense, gram) <= objective(plain, dense, gram)).all())
    codes, scales = gptq(dense, 32, LOW, HIGH, torch.float16, gram=gram_of(dead))
    # Nothing is known of a dead column: its weights are still near what they were.
    steps = scales.float().repeat_interleave(32, 1)[:, [0, 17, 63]]
    assert bool(((dequantized(codes, scales) - dense)[:, [0, 17, 63]].abs() <= 2 * steps).all())


def test_a_gram_matrix_that_no_damping_helps_is_an_error() -> None:
    gram = torch.eye(64, dtype=torch.float64)
    gram[3, 4] = gram[4, 3] = 1e6
    with pytest.raises(ModelError, match="cannot be factored; give more calibration text"):
        gptq(matrix(0, 64), 32, LOW, HIGH, torch.float16, gram=gram)


def test_int8_has_one_scale_a_row() -> None:
    dense, gram = matrix(1, 96), gram_of(inputs(1, 96))
    packed = Int8().pack(dense, partial(gptq, gram=gram))
    assert packed.tensors["scales"].shape == (ROWS,) and packed.tensors["scales"].dtype == torch.float32
    made, plain = (Int8().unpack(each) for each in (packed, Int8().pack(dense)))
    assert objective(made, dense, gram).sum() < objective(plain, dense, gram).sum()


def test_awq_scales_columns_and_the_norm_exactly_against_each_other() -> None:
    dense, gram = matrix(2, 64), gram_of(inputs(2, 64))
    norm = torch.rand(64, generator=torch.Generator().manual_seed(0)) + 0.5
    rounding = Awq(norm, gram)
    codes, scales = rounding(dense, 32, LOW, HIGH, torch.float16)
    assert rounding.norm is not None
    torch.testing.assert_close(rounding.norm * rounding.factors, norm, rtol=1e-6, atol=0)
    for dtype in (torch.bfloat16, torch.float16):       # as a folder may store it
        assert torch.equal(rounding.norm.to(dtype).float(), rounding.norm)
    made = dequantized(codes, scales) / rounding.factors
    bare = dequantized(*Awq(None, gram)(dense, 32, LOW, HIGH, torch.float16))
    assert objective(made, dense, gram).sum() < objective(bare, dense, gram).sum()


def test_the_gram_matrix_is_the_mean_of_outer_products() -> None:
    x, gram = inputs(0, 64, 90), Gram(64)
    for first in range(0, 90, 40):
        gram.add(x[first:first + 40])
    want = np.zeros((64, 64))
    for row in np.asarray(x.double()):
        want += np.outer(row, row) / len(x)
    np.testing.assert_allclose(gram.matrix().numpy(), want, rtol=1e-5, atol=1e-6 * want.max())


def test_nothing_is_left_in_memory() -> None:
    x = gram_of(inputs(0, 256))
    gc.collect()
    gc.disable()        # a cycle would keep its tensors until Python looks for cycles, which takes it gigabytes
    try:
        before = sum(type(held) is Tensor for held in gc.get_objects())
        gptq(matrix(0, 256), 64, LOW, HIGH, torch.float16, gram=x)
        assert sum(type(held) is Tensor for held in gc.get_objects()) == before
    finally:
        gc.enable()
