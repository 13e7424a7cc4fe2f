"""Biases, bans and penalties on exact numbers, and rows without a choice."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from nearfield.core.request import Request, SamplingParams
from nearfield.engine.sampler import SampleInput, Sampler, adjust
from nearfield.kernels import select

LOGITS = torch.tensor([4.0, -2.0, 1.0, 0.5])


def row(tokens: tuple[int, ...] = (), prompt: int = 0, banned: tuple[int, ...] = (), **options: Any) -> SampleInput:
    params = SamplingParams(**{"temperature": 0, **options})
    return SampleInput(Request("r", tokens[:prompt] or (0,), params), 1, tokens, prompt, banned)


ADJUSTED: list[tuple[SampleInput, list[float]]] = [
    (row(logit_bias={0: -5, 3: 2.5}), [-1, -2, 1, 3]),
    (row(banned=(0, 2)), [float("-inf"), -2, float("-inf"), 0.5]),
    # prompt (0, 1) and answer (1, 2, 2): repetition sees all of it, a positive logit shrinks, a negative grows
    (row((0, 1, 1, 2, 2), 2, repetition_penalty=2.0), [2, -4, 0.5, 0.5]),
    # presence and frequency see the answer alone
    (row((0, 1, 1, 2, 2), 2, presence_penalty=1.0), [4, -3, 0, 0.5]),
    (row((0, 1, 1, 2, 2), 2, frequency_penalty=1.0), [4, -3, -1, 0.5]),
    (row((0, 1, 1, 2, 2), 2, frequency_penalty=0.5, presence_penalty=-0.25), [4, -2.25, 0.25, 0.5]),
    (row((0, 1), 2, presence_penalty=2.0, frequency_penalty=2.0), [4, -2, 1, 0.5]),
    # bias first, then the penalty on the sum
    (row((0,), 1, logit_bias={0: 2}, repetition_penalty=2.0), [3, -2, 1, 0.5]),
]


@pytest.mark.parametrize(("given", "want"), ADJUSTED)
def test_adjusted_logits(given: SampleInput, want: list[float]) -> None:
    before = LOGITS.clone()
    assert adjust(LOGITS, given).tolist() == want
    assert torch.equal(LOGITS, before)


def test_each_row_is_adjusted_by_its_own_history() -> None:
    sampler = Sampler(select.build("fp32"))
    rows = [row(), row(banned=(0,)), row(logit_bias={3: 10}), row()]
    chosen = sampler.sample(LOGITS.expand(4, -1), rows)
    assert [choice[0] for choice in chosen if choice] == [0, 2, 3, 0]


@pytest.mark.parametrize("broken", [
    torch.full((4,), float("nan")), torch.full((4,), float("-inf")),
    torch.tensor([0.0, float("inf"), 0.0, 0.0]), torch.tensor([0.0, 1.0, float("nan"), 0.0])])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0, "min_p": 0.1}])
def test_a_row_without_a_choice_leaves_its_neighbours_alone(broken: torch.Tensor, options: dict[str, Any]) -> None:
    sampler = Sampler(select.build("fp32"))
    chosen = sampler.sample(torch.stack([LOGITS, broken, LOGITS]), [row(), row(**options), row()])
    assert chosen == [(0, None), None, (0, None)]


def test_logprobs_are_of_the_raw_logits_with_ties_in_order_of_id() -> None:
    sampler = Sampler(select.build("fp32"))
    logits = torch.tensor([[0.0, 2.0, 2.0, 2.0, 1.0]])
    choice = sampler.sample(logits, [row(logprobs=3, logit_bias={0: 50})])[0]
    assert choice is not None and choice[1] is not None
    token, entry = choice[0], choice[1]
    exact = logits[0].double().log_softmax(-1)
    assert token == entry.token_id == 0 and abs(entry.logprob - float(exact[0])) < 1e-6
    assert [i for i, _ in entry.top] == [1, 2, 3]
    assert all(abs(value - float(exact[i])) < 1e-6 for i, value in entry.top)
    bare = sampler.sample(logits, [replace(row(), request=Request("r", (0,), SamplingParams(logprobs=0)))])[0]
    assert bare is not None and bare[1] is not None and bare[1].top == ()
