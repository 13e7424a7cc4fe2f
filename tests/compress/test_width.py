"""Taking columns out of a matrix: against least squares on the inputs themselves, and against trying all of them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nearfield.compress.gram import Gram
from nearfield.compress.prune import width
from nearfield.compress.prune.width import columns_of, cut
from nearfield.core.errors import ModelError


def inputs(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Inputs [T, K] fp32 that depend on each other, as those of a model do."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, columns, generator=random) @ torch.randn(columns, columns, generator=random)
    return mixed + 0.3 * torch.randn(rows, columns, generator=random)


def gram_of(x: Tensor) -> Tensor:
    gram = Gram(x.shape[1])
    gram.add(x)
    return gram.matrix()


def matrix(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def fitted_error(x: Tensor, dense: Tensor, columns: Tensor) -> tuple[Tensor, float]:
    """By least squares on the inputs: the best columns, and the share of the output's mean square that is lost."""
    x, want = x.double(), x.double() @ dense.double().T
    found = torch.linalg.lstsq(x[:, columns], want).solution
    return found.T, float((x[:, columns] @ found - want).square().sum() / want.square().sum())


@pytest.mark.parametrize(("unit", "keep"), [(1, 9), (1, 3), (4, 2), (6, 1)])
def test_what_stays_is_the_least_squares_fit(unit: int, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(width, "DAMPING", (1e-9,))
    x, dense = inputs(400, 12), matrix(7, 12)
    made = cut(dense, gram_of(x), unit, keep)
    columns = columns_of(made.kept, unit)
    want, error = fitted_error(x, dense, columns)
    assert torch.allclose(made.dense[:, columns].double(), want, rtol=1e-3, atol=1e-4)
    assert made.error == pytest.approx(error, rel=1e-2, abs=1e-6)
    gone = torch.ones(12, dtype=torch.bool)
    gone[columns] = False
    assert not made.dense[:, gone].any() and made.kept.tolist() == sorted(made.kept.tolist())
    zeroed = x.double() @ (dense * ~gone).double().T - x.double() @ dense.double().T
    assert made.bare == pytest.approx(float(zeroed.square().sum() / (x.double() @ dense.double().T).square().sum()))


@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_unit_that_goes_is_the_one_whose_going_costs_least(unit: int, seed: int) -> None:
    x, dense = inputs(300, 12, seed), matrix(5, 12, seed + 9)
    count = 12 // unit
    made = cut(dense, gram_of(x), unit, count - 1)
    errors = {kept: fitted_error(x, dense, columns_of(torch.tensor(kept), unit))[1]
              for kept in itertools.combinations(range(count), count - 1)}
    assert tuple(made.kept.tolist()) == min(errors, key=lambda kept: errors[kept])


def test_of_two_inputs_that_say_the_same_one_goes_for_nothing() -> None:
    x = inputs(300, 10)
    x[:, 7] = 2 * x[:, 2]
    made = cut(10 * matrix(4, 10), gram_of(x), 1, 9)
    assert {2, 7} - set(made.kept.tolist()) and made.error < 1e-4 < made.bare


def test_without_compensation_the_rest_stays_as_it_was() -> None:
    x, dense = inputs(300, 10), matrix(4, 10)
    made = cut(dense, gram_of(x), 1, 6, compensate=False)
    assert torch.equal(made.dense[:, made.kept], dense[:, made.kept]) and made.error == made.bare
    own = (dense.double() ** 2).sum(0) * (x.double() ** 2).mean(0)
    assert set(made.kept.tolist()) == set(own.topk(6).indices.tolist())
    assert cut(dense, gram_of(x), 1, 6).error < made.error


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 2, 5]), st.integers(2, 8), st.integers(0, 1000), st.data())
def test_fitting_never_hurts(rows: int, unit: int, count: int, seed: int, data: st.DataObject) -> None:
    """Whatever the inputs: fewer rows than columns, columns that are always zero."""
    keep = data.draw(st.integers(1, count - 1))
    x, dense = inputs(rows, unit * count, seed), matrix(3, unit * count, seed + 1)
    x[:, data.draw(st.lists(st.integers(0, unit * count - 1)))] = 0
    made = cut(dense, gram_of(x), unit, keep)
    assert len(made.kept) == keep and bool(made.dense.isfinite().all())
    assert -1e-6 <= made.error <= made.bare * (1 + 1e-4) + 1e-4


def test_inputs_that_are_never_used_go_first_and_take_nothing_over() -> None:
    x, dense = inputs(200, 8), matrix(4, 8)
    x[:, [1, 5]] = 0
    made = cut(dense, gram_of(x), 1, 6)
    assert made.kept.tolist() == [0, 2, 3, 4, 6, 7] and made.error == pytest.approx(0, abs=1e-9)
    assert torch.allclose(made.dense[:, made.kept], dense[:, made.kept], atol=1e-5)
    none = cut(dense, torch.zeros(8, 8, dtype=torch.float64), 1, 3)
    assert none.error == 0 and bool(none.dense.isfinite().all())


def test_a_matrix_that_is_no_gram_matrix_is_refused() -> None:
    broken = -torch.eye(6, dtype=torch.float64) * 9
    broken[0, 0] = 50
    with pytest.raises(ModelError, match="cannot be inverted; give more calibration text"):
        cut(matrix(3, 6), broken, 1, 2)
