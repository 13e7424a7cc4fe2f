"""Choosing tokens in C++: against `reference.sample`, and against a float64 account where rounding may decide."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nearfield.kernels import cpu, reference
from nearfield.kernels.cpu import _native
from nearfield.kernels.cpu.kernels import CpuKernels
from nearfield.kernels.ops import SampleRow
from nearfield.kernels.reference.philox import uniform
from tests.kernels.test_philox import VECTORS

PLAIN = SampleRow(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1, position=0)
VOCABULARY = 151_936

NEAR = 1e-5
"""Weights in fp32 are off by a few millionths at most: only this near to a boundary may they decide otherwise."""


def plausible(logits: torch.Tensor, row: SampleRow) -> set[int]:
    """The tokens whose share of the float64 CDF holds the row's random number, give or take NEAR, for every
    cut that the filters make, give or take NEAR."""
    x = logits.double().numpy()
    weights = np.exp((x - x.max()) / max(row.temperature, 1e-5))
    ids = np.arange(len(x))
    if row.top_k > 0 or row.top_p < 1.0 or row.min_p > 0.0:
        ids = np.lexsort((ids, -x))
    fewest, most = (_kept(weights[ids], row, 1 + near * NEAR) for near in (1, -1))
    found: set[int] = set()
    u = uniform(row.seed, row.position, row.sample_index)
    for count in range(min(fewest, most), max(fewest, most) + 1):
        cdf = weights[ids[:count]].cumsum()
        cdf /= cdf[-1]
        first, last = np.searchsorted(cdf, [u - NEAR, u + NEAR])
        found.update(ids[first:min(last + 1, count)].tolist())
    return found


def _kept(weights: NDArray[np.float64], row: SampleRow, rigour: float) -> int:
    """How many of the best pass the filters, made stricter (> 1) or laxer (< 1); the best one always does."""
    count = max(1, int((weights >= row.min_p * rigour).sum()))
    if row.top_k > 0:
        count = min(count, row.top_k)
    if row.top_p < 1.0:
        before = weights[:count].cumsum() - weights[:count]
        count = int((before < row.top_p / rigour * weights[:count].sum()).sum())
    return count


def some_logits(rng: np.random.Generator, rows: int, size: int, kind: str) -> torch.Tensor:
    x = rng.standard_normal((rows, size)) * rng.choice([0.1, 1.0, 4.0, 30.0])
    if kind == "ties":
        x = x.round()
    if kind == "banned":
        x[rng.random((rows, size)) < 0.7] = -np.inf
        x[np.arange(rows), rng.integers(0, size, rows)] = 1.0    # never all of them
    return torch.from_numpy(x.astype(np.float32))


def some_row(rng: np.random.Generator) -> SampleRow:
    return SampleRow(
        temperature=float(rng.choice([0.0, 1e-9, 0.3, 1.0, 2.5])), top_k=int(rng.choice([0, 0, 1, 5, 60, 3000])),
        top_p=float(rng.choice([1.0, 1.0, 0.05, 0.5, 0.95])), min_p=float(rng.choice([0.0, 0.0, 1e-6, 0.02, 1.0])),
        seed=int(rng.integers(-2**63, 2**63)), position=int(rng.integers(0, 2**40)),
        sample_index=int(rng.integers(0, 9)))


@pytest.mark.parametrize(("counter", "key", "want"), VECTORS)
def test_philox_has_the_published_words(counter: tuple[int, int, int, int], key: tuple[int, int],
                                        want: tuple[int, int, int, int]) -> None:
    assert tuple(_native.philox4x32(counter, key)) == want


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.integers(1, 6), st.sampled_from(["spread", "ties", "banned"]), st.integers(1, 3),
       st.integers(0, 2**32))
def test_any_row_any_threads(size: int, count: int, kind: str, threads: int, seed: int) -> None:
    """The reference's token, or one as near to the boundary; the same one from every instruction set."""
    rng = np.random.default_rng(seed)
    logits, rows = some_logits(rng, count, size, kind), [some_row(rng) for _ in range(count)]
    chosen = cpu.load(1, "scalar").sample(logits, rows)
    for i, want in enumerate(reference.sample(logits, rows)):
        assert chosen[i] == want or chosen[i] in plausible(logits[i], rows[i])
    for isa in _native.supported_isas():
        assert cpu.load(threads, isa).sample(logits, rows) == chosen, isa


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 30.0])
def test_a_large_vocabulary(scale: float) -> None:
    """Nucleus of one token to all of them; alone, in a batch and on other threads."""
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(1)) * scale
    changes = [{"temperature": 0.0}, {}, {"top_k": 50}, {"top_k": 3000, "top_p": 0.9}, {"top_p": 0.9}, {"top_p": 0.999},
               {"min_p": 0.05}, {"min_p": 0.3, "top_p": 0.5}, {"temperature": 0.5, "top_p": 0.95}]
    rows = [replace(PLAIN, position=i, **change) for i, change in enumerate(changes)]  # type: ignore[arg-type]
    together = logits.expand(len(rows), -1)
    chosen = cpu.load(1).sample(together, rows)
    for row, token in zip(rows, chosen, strict=True):
        if row.temperature == 0.0:
            assert token == int(logits[0].argmax())
        else:
            assert token in plausible(logits[0], row), row
    for isa in _native.supported_isas():
        assert cpu.load(3, isa).sample(together, rows) == chosen
        assert cpu.load(2, isa).sample(logits, rows[4:5]) == chosen[4:5]


@pytest.mark.parametrize("change", [{}, {"top_k": 40}, {"top_p": 0.8}, {"min_p": 0.01}])
def test_it_is_the_references_token_almost_always(kernels: CpuKernels, change: dict[str, float]) -> None:
    logits = torch.randn(1, 3000, generator=torch.Generator().manual_seed(2)) * 2
    rows = [replace(PLAIN, position=p, **change) for p in range(500)]  # type: ignore[arg-type]
    together = logits.expand(500, -1)
    pairs = zip(kernels.sample(together, rows), reference.sample(together, rows), strict=True)
    assert sum(ours != theirs for ours, theirs in pairs) <= 1


@pytest.mark.parametrize("change", [{}, {"top_k": 8}, {"top_p": 0.9999999}])
def test_draws_follow_the_distribution(kernels: CpuKernels, change: dict[str, float]) -> None:
    probs = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.08, 0.05, 0.02])
    draws = 20_000
    rows = [replace(PLAIN, position=p, **change) for p in range(draws)]  # type: ignore[arg-type]
    logits = torch.from_numpy(np.log(probs).astype(np.float32))[None].expand(draws, -1)
    counts = Counter(kernels.sample(logits, rows))
    chi_square = sum((counts[i] - draws * p) ** 2 / (draws * p) for i, p in enumerate(probs))
    assert chi_square < 35   # 7 degrees of freedom: once in 100,000


def test_equals_go_to_the_lowest_id(kernels: CpuKernels) -> None:
    for size, first in ((5, 1), (300, 130), (300, 299), (64, 63)):
        logits = torch.zeros(1, size)
        logits[0, first] = 3.0
        logits[0, first + 1:] = 3.0
        assert kernels.sample(logits, [replace(PLAIN, temperature=0.0)]) == [first]
        assert kernels.sample(logits, [replace(PLAIN, top_k=1)]) == [first]
        assert kernels.sample(logits, [replace(PLAIN, top_p=1e-9)]) == [first]
    both_zeros = torch.tensor([[-1.0, -0.0, 0.0]])
    assert kernels.sample(both_zeros, [replace(PLAIN, temperature=0.0)]) == [1]
    assert kernels.sample(both_zeros, [replace(PLAIN, top_k=1)]) == [1]


def test_a_token_without_probability_is_never_drawn(kernels: CpuKernels) -> None:
    logits = torch.full((1, 200), float("-inf"))
    logits[0, 70:73] = torch.tensor([0.0, -200.0, 0.5])
    for change in ({}, {"top_k": 100}, {"top_p": 0.999}):
        rows = [replace(PLAIN, position=p, **change) for p in range(400)]
        assert set(kernels.sample(logits.expand(400, -1), rows)) == {70, 72}


def test_the_largest_numbers_do_not_overflow(kernels: CpuKernels) -> None:
    logits = torch.tensor([[3e38, -3e38, 3e38, 0.0]])
    rows = [replace(PLAIN, position=p, temperature=1e-4) for p in range(50)]
    assert set(kernels.sample(logits.expand(50, -1), rows)) == {0, 2}


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), float("-inf")])
def test_a_spoilt_row_gets_no_token_and_spoils_no_other(kernels: CpuKernels, bad: float) -> None:
    rng = np.random.default_rng(3)
    logits, rows = some_logits(rng, 40, 200, "spread"), [some_row(rng) for _ in range(40)]
    before = kernels.sample(logits, rows)
    logits[1::2] = torch.where(torch.rand(20, 200) < 0.5, torch.tensor(bad), logits[1::2])
    logits[3::4] = bad
    after = kernels.sample(logits, rows)
    assert after[::2] == before[::2]
    assert set(after[3::4]) == {-1} == set(reference.sample(logits[3::4], rows[3::4]))
    if bad == float("-inf"):
        assert all(0 <= token < 200 for token in after[1::4])   # half of the row can still be drawn
    else:
        assert set(after[1::4]) == {-1} == set(reference.sample(logits[1::4], rows[1::4]))


def test_rows_may_lie_apart(kernels: CpuKernels) -> None:
    rng = np.random.default_rng(4)
    wide, rows = some_logits(rng, 6, 300, "spread"), [some_row(rng) for _ in range(6)]
    apart = wide[:, 50:250]
    assert kernels.sample(apart, rows) == kernels.sample(apart.contiguous(), rows)


def test_no_rows(kernels: CpuKernels) -> None:
    assert kernels.sample(torch.zeros(0, 10), []) == []


def test_other_shapes_are_refused(kernels: CpuKernels) -> None:
    with pytest.raises(ValueError, match=r"logits must be \[2, V\], not \[3, 10\]"):
        kernels.sample(torch.zeros(3, 10), [PLAIN, PLAIN])
    with pytest.raises(ValueError, match=r"logits must be \[1, V\], not \[1, 0\]"):
        kernels.sample(torch.zeros(1, 0), [PLAIN])
    with pytest.raises(ValueError, match="float32"):
        kernels.sample(torch.zeros(1, 10).bfloat16(), [PLAIN])
    with pytest.raises(ValueError, match="side by side"):
        kernels.sample(torch.zeros(10, 2).T, [PLAIN, PLAIN])
