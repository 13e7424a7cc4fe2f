"""The training loop, on a task of two numbers: rates, order, the best state, stopping, and going on where it ended."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, AdamW

from nearfield.compress.distill.train import (
    EVALUATIONS,
    Course,
    optimizer_state,
    restore_optimizer,
    train,
)
from nearfield.compress.kept import Kept


class Bowl:
    """Learns to be 3 from chunks that say 3, more or less. after: what is told instead of the held-out loss."""

    def __init__(self, after: Callable[[int], float] | None = None, fault: int | None = None) -> None:
        self.weights: Mapping[str, Tensor] = {"matrix": torch.zeros(1, 2), "vector": torch.zeros(2)}
        self.seen: list[Sequence[int]] = []
        self.asked = 0
        self._after, self._fault = after, fault

    def learn(self, chunks: Sequence[int]) -> float:
        self.seen.append(chunks)
        if len(self.seen) == self._fault:
            return math.nan
        target = 3 + sum(chunks) / 100
        loss = sum(((tensor - target).square().sum() for tensor in self.weights.values()), torch.zeros(()))
        torch.autograd.backward(loss)
        return float(loss.detach())

    def held_out(self) -> float:
        self.asked += 1
        if self._after is not None:
            return self._after(self.asked - 1)
        return float(sum(((tensor.detach() - 3).square().sum() for tensor in self.weights.values()), torch.zeros(())))


def course(steps: int = 40, chunks: int = 10) -> Course:
    return Course("bowl", range(100, 100 + chunks), steps, 2, 0.05, seed=1)


def kept(folder: Path) -> Kept:
    return Kept(folder / "run")


def watch(done: int, loss: float, held_out: float) -> None:
    pass


@given(st.integers(1, 500))
def test_the_rate_rises_for_a_tenth_and_falls_to_a_fiftieth(steps: int) -> None:
    shares = [course(steps).share(step) for step in range(steps)]
    top = shares.index(max(shares))
    assert max(shares) == 1.0 and top <= max(1, round(steps / 10))
    assert shares[:top] == sorted(shares[:top]) and shares[top:] == sorted(shares[top:], reverse=True)
    assert all(0.02 <= share <= 1 for share in shares[top:])


@given(st.integers(1, 60), st.integers(1, 40))
def test_every_chunk_comes_before_any_comes_again(steps: int, chunks: int) -> None:
    order = course(steps, chunks).order()
    assert len(order) == steps and all(len(row) == 2 for row in order)
    counts = Counter(chunk for row in order for chunk in row)
    assert max(counts.values()) - min(counts[chunk] for chunk in range(100, 100 + chunks)) <= 1
    assert order == course(steps, chunks).order()


def test_it_learns_and_says_how(tmp_path: Path) -> None:
    task = Bowl()
    outcome = train(task, course(), kept(tmp_path), watch)
    assert outcome.done == 40 and outcome.stopped is None and len(outcome.history) == EVALUATIONS + 1
    assert outcome.history[0] == (0, 36.0) and outcome.best[1] < 25
    assert task.seen == course().order()
    assert not any(name in kept(tmp_path) for name in ("bowl-best", "bowl-checkpoint"))


def test_the_best_state_is_left_and_not_the_last(tmp_path: Path) -> None:
    told = (5.0, 6.0, 7.0, 1.0, 2.0, 3.0, 4.0, 0.5)
    best = Bowl(after=lambda asked: told[asked])
    outcome = train(best, course(), kept(tmp_path), watch)
    assert outcome.best == (12, 1.0) and outcome.done == 24
    assert outcome.stopped == "the held-out loss has risen 3 times in a row, up to step 24"
    shorter = Bowl(fault=13)
    assert train(shorter, replace(course(), name="shorter"), kept(tmp_path), watch).best[0] == 12
    assert torch.equal(shorter.weights["vector"], best.weights["vector"])


def test_what_is_not_a_number_stops_it_and_leaves_the_best(tmp_path: Path) -> None:
    task = Bowl(fault=11)
    outcome = train(task, course(), kept(tmp_path), watch)
    assert outcome.stopped == "the loss is not finite at step 11" and outcome.best[0] == 8
    assert all(bool(tensor.isfinite().all()) for tensor in task.weights.values())
    assert len(task.seen) == 11
    other = Bowl(after=lambda asked: math.inf if asked == 2 else 9.0 - asked)
    outcome = train(other, Course("other", range(8), 40, 2, 0.2, seed=1), kept(tmp_path), watch)
    assert outcome.stopped == "the held-out loss is not finite at step 8" and outcome.best == (4, 8.0)


class Cut(Exception):
    """The run ends here."""


@pytest.mark.parametrize("at", [1, 4, 5, 19, 39])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(at: int, tmp_path: Path) -> None:
    def cut(done: int, loss: float, held_out: float) -> None:
        if done == at:
            raise Cut

    whole, half, rest = Bowl(), Bowl(), Bowl()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    expected = train(whole, course(), kept(tmp_path / "a"), watch)
    with pytest.raises(Cut):
        train(half, course(), kept(tmp_path / "b"), cut)
    found = train(rest, course(), kept(tmp_path / "b"), watch)
    assert found.history == expected.history and len(rest.seen) == 40 - at // 4 * 4
    for name, tensor in whole.weights.items():
        assert torch.equal(rest.weights[name], tensor)
    again = Bowl()
    assert train(again, course(), kept(tmp_path / "b"), watch) == found and not again.seen
    assert torch.equal(again.weights["vector"], whole.weights["vector"])


def test_an_optimizer_gets_back_what_it_remembers() -> None:
    weights = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    used, fresh = AdamW(weights, lr=0.1), AdamW(weights, lr=0.1)
    for weight in weights:
        weight.grad = torch.full_like(weight, 0.5)
    used.step()
    restore_optimizer(fresh, {name: value.clone() for name, value in optimizer_state(used).items()})
    assert optimizer_state(fresh).keys() == optimizer_state(used).keys()
    for name, value in optimizer_state(used).items():
        assert torch.equal(optimizer_state(fresh)[name], value)
    assert optimizer_state(SGD(weights, lr=0.1)) == {}
