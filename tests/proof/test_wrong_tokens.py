"""Nodes whose tokens are not those that the receipt's sampling chooses: rows 6 to 9 of the table in docs/receipts.md.

Their states are right, so that looking at activations alone would let them pass: choosing again tells.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from nearfield.core.request import SamplingParams
from nearfield.engine.sampler import Choice, SampleInput, Sampler
from nearfield.kernels import cpu
from nearfield.proof.nonces import seed_of
from nearfield.proof.receipt import SeedSource
from nearfield.proof.replay import Answer, replay
from tests.proof.node import (
    SAMPLED,
    Node,
    answer_of,
    check,
    forged,
    open_node,
    prompts,
    reason,
    resigned,
    states_alone_pass,
)

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

# 6: other sampling

@pytest.mark.parametrize("change", [{"temperature": 0.9}, {"temperature": 1.1}, {"top_p": 0.90}, {"top_p": 0.85}],
                         ids=str)
def test_other_sampling(honest: Node, change: dict[str, Any]) -> None:
    """The states are right, since they are those of the tokens: only choosing again tells."""
    params = SamplingParams(max_tokens=128, temperature=1.0, top_p=0.95, ignore_eos=True)
    made = honest.answer(prompts(honest), params, ask=lambda r: replace(r, params=replace(r.params, **change)))
    assert all(states_alone_pass(honest, given) for given in made)
    caught = [given for given in made if not check(honest, given).verified]
    assert len(caught) >= len(made) - 1   # of 128 tokens, a few per cent differ
    assert all(reason(check(honest, given), "tokens").startswith("token ") for given in caught)


def test_other_sampling_that_is_told(honest: Node) -> None:
    [given] = honest.answer(prompts(honest, 1), SAMPLED)
    asked = replace(given, known=replace(given.known, params=replace(SAMPLED, temperature=0.8)))
    assert reason(check(honest, asked), "options") == "temperature: the request has 0.8, the receipt 0.9"


# 7: other seeds

def test_a_wrong_seed(honest: Node) -> None:
    made = honest.answer(prompts(honest, 4), ask=lambda r: replace(r, params=replace(r.params, seed=5)))
    for given in made:
        first = int(reason(check(honest, given), "tokens").split()[1].rstrip(":"))
        assert first < 8
        assert reason(check(honest, resigned(given, seed=5)), "seed").startswith("of both nonces")
        told = resigned(given, seed=5, seed_source=SeedSource.REQUEST)
        assert "it gave none" in reason(check(honest, told), "seed")


def test_a_ground_seed(honest: Node) -> None:
    """The node tries nonces until it likes the answer: the client fetched another one beforehand."""
    [given] = honest.answer(prompts(honest, 1))
    fetched = replace(given, known=replace(given.known, node_nonce=bytes(32)))
    assert reason(check(honest, fetched), "node nonce").startswith("nonce: expected 0000")
    unfetched = check(honest, replace(given, known=replace(given.known, node_nonce=None)))
    assert unfetched.verified
    assert [one.reason for one in unfetched.checks if one.name == "node nonce"][0].startswith("not known: unless")


def test_a_ground_index(honest: Node) -> None:
    """The place in the response goes into the seed, so it is not the node's to choose."""
    [given] = honest.answer(prompts(honest, 1))
    receipt = given.disclosure.signed.receipt
    seed = seed_of(receipt.client_nonce, receipt.node_nonce, 7)
    assert reason(check(honest, resigned(given, index=7, seed=seed)), "place").startswith("index: expected 0")
    assert reason(check(honest, resigned(given, sample_index=7)), "place").startswith("sample index: expected 0")


# 8: a small model decodes, the large one proves

def test_a_small_model_decodes_and_the_large_one_proves(honest: Node, small: Node) -> None:
    for given in Node(small.loaded, says=honest.subject).answer(prompts(honest, 4)):
        cheat = forged(given, given.disclosure.output_ids, replay(honest.loaded, answer_of(given)).states)
        assert states_alone_pass(honest, cheat)
        first = int(reason(check(honest, cheat), "tokens").split()[1].rstrip(":"))
        assert first < 24


# 9: drafts that nobody verified

class DraftingSampler(Sampler):
    """Takes a small model's token for one in twenty, unverified."""

    def __init__(self, honest: Node, small: Node) -> None:
        super().__init__(honest.loaded.ops)
        self._small, self._random = small, random.Random(9)

    def sample(self, logits: torch.Tensor, rows: Sequence[SampleInput]) -> list[Choice | None]:
        made = super().sample(logits, rows)
        return [(self._draft(row), None) if self._random.random() < 0.05 else choice
                for row, choice in zip(rows, made, strict=True)]

    def _draft(self, row: SampleInput) -> int:
        known = tuple(row.tokens)
        answer = Answer(known[:row.prompt_len], (*known[row.prompt_len:], 0), row.request.params, row.seed, 0)
        token = replay(self._small.loaded, answer).tokens[-1]
        assert token is not None
        return token


def test_unverified_drafts(honest: Node, small: Node) -> None:
    cheat = open_node()
    cheat.loaded.engine._sampler = DraftingSampler(honest, small)
    made = cheat.answer(prompts(honest), replace(SAMPLED, max_tokens=100))
    assert all(states_alone_pass(honest, given) for given in made)
    caught = [given for given in made if not check(honest, given).verified]
    assert len(caught) >= len(made) - 2   # a draft may happen to be right
    for given in caught:
        assert reason(check(honest, given), "tokens").startswith("token ")
