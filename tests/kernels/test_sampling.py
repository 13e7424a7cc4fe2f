"""Sampling against a plain float64 account of each filter, and its distribution."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from nearfield.kernels.ops import SampleRow
from nearfield.kernels.reference import sampling
from nearfield.kernels.reference.sampling import sample

PLAIN = SampleRow(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1, position=0)


def allowed(logits: torch.Tensor, row: SampleRow) -> set[int]:
    """The ids that the filters leave, by the definitions, one token at a time."""
    probs = (logits.double() / row.temperature).softmax(-1).tolist()
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    order = [i for i in order if probs[i] >= row.min_p * probs[order[0]]]
    if row.top_k > 0:
        order = order[:row.top_k]
    total, mass, kept = sum(probs[i] for i in order), 0.0, []
    for i in order:
        if mass >= row.top_p * total:
            break
        kept.append(i)
        mass += probs[i]
    return set(kept)


FILTERS = [{"top_k": 1}, {"top_k": 7}, {"top_p": 0.3}, {"top_p": 0.9}, {"min_p": 0.2},
           {"top_k": 20, "top_p": 0.6}, {"top_k": 20, "top_p": 0.8, "min_p": 0.1}, {"top_p": 0.55, "min_p": 0.3},
           {"temperature": 0.3, "top_p": 0.9}]


@pytest.mark.parametrize("change", FILTERS)
def test_filters_leave_what_their_definitions_leave(change: dict[str, float]) -> None:
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3)) * 2
    row = replace(PLAIN, **change)  # type: ignore[arg-type]
    seen = {sample(logits[None], [replace(row, position=p)])[0] for p in range(3000)}
    want = allowed(logits, row)
    assert seen <= want
    likely = (logits.double() / row.temperature).softmax(-1)
    assert {i for i in want if likely[i] > 0.01} <= seen


@pytest.mark.parametrize("change", [
    {}, {"top_p": 0.95}, {"top_k": 2000}, {"top_k": 3, "min_p": 0.01}, {"min_p": 0.02, "top_p": 0.9}, {"min_p": 1e-6}])
def test_candidates_shortcut_changes_nothing(change: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(4)).round(decimals=1)   # many ties
    rows = [replace(PLAIN, position=p, **change) for p in range(50)]  # type: ignore[arg-type]
    quick = sample(logits.expand(50, -1), rows)
    monkeypatch.setattr(sampling, "_CANDIDATES", 5000)
    assert quick == sample(logits.expand(50, -1), rows)


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.5, 0.25, 0.125, 0.125])
    for change in ({}, {"top_k": 4}):
        counts = Counter(sample(probs.log()[None], [replace(PLAIN, position=p, **change)])[0]
                         for p in range(4000))
        for token, p in enumerate(probs.tolist()):
            assert abs(counts[token] - 4000 * p) < 5 * (4000 * p * (1 - p)) ** 0.5


def test_greedy_takes_the_lowest_id_among_ties() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    assert sample(logits, [replace(PLAIN, temperature=0.0)]) == [1]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(16, 500, generator=torch.Generator().manual_seed(5))
    rows = [replace(PLAIN, seed=i, position=3 * i, top_p=0.9) for i in range(16)]
    together = sample(logits, rows)
    assert together == [sample(logits[i:i + 1], [rows[i]])[0] for i in range(16)]
