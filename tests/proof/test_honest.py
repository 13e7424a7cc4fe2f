"""Row 0: an honest node is never accused, however it and its verifier run: not one bit differs.

Instruction set, threads, requests at once, tokens of a step and prefix cache differ between the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nearfield.core.request import SamplingParams
from nearfield.core.types import FinishReason
from nearfield.kernels import cpu
from nearfield.proof.replay import CHUNK
from tests.proof.node import PROMPTS, SAMPLED, Given, check, open_node, prompts, reason

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

BEST = (cpu.supported() or ("scalar",))[0]
WEIGHTS: dict[str, dict[str, Any]] = {
    "w8": {"weights": "w8", "dtype": "bf16"}, "w4": {"weights": "w4", "group": 32, "dtype": "bf16"}, "fp32": {},
    "bf16": {"dtype": "bf16"}}
WAYS: list[dict[str, Any]] = [
    {"isa": BEST, "threads": 2}, {"isa": BEST, "max_seqs": 3, "max_step_tokens": 16, "prefix_cache": False},
    {"isa": "avx512", "max_seqs": 8, "max_step_tokens": 64}, {"isa": "avx2", "max_seqs": 1}]
KINDS = [SAMPLED, SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True), SamplingParams(
    max_tokens=48, temperature=0.8, top_k=20, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2,
    logit_bias={11: 2.0, 30: -5.0}, min_tokens=20, stop=(" the", "."), stop_token_ids=(13,)),
    SamplingParams(max_tokens=60, temperature=1.0, min_p=0.02, stop=("e",), include_stop_str_in_output=True)]


def ways(weights: str) -> list[dict[str, Any]]:
    """Dense bf16 is bound to the instruction that multiplies it: its profile's name says so."""
    here = [way for way in WAYS if way["isa"] in cpu.supported()]
    return [way for way in here if weights != "bf16" or way["isa"] == BEST]


def tokens_of(made: Sequence[Given]) -> int:
    return sum(len(given.disclosure.output_ids) for given in made)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_nothing_differs(weights: str) -> None:
    nodes = [open_node(**WEIGHTS[weights], **way) for way in ways(weights)]
    for number, node in enumerate(nodes):
        verifier = nodes[number - 1]
        assert node.subject == replace(verifier.subject, max_context=node.subject.max_context)
        made = node.answer(prompts(node, 4), KINDS[number % len(KINDS)])
        made += node.answer(prompts(node, 2), KINDS[(number + 1) % len(KINDS)], n=2)   # from the cache, where it is on
        for given in made:
            assert check(verifier, given).verified, check(verifier, given).lines()


def test_requests_that_were_set_back() -> None:
    """The cache is too small for all: requests give way, come back and compute again what they had."""
    node, verifier = open_node(kv_memory=13 * 49152, max_seqs=8), open_node()
    made = node.answer(prompts(node), replace(SAMPLED, max_tokens=60))
    assert node.loaded.engine.stats().preemptions > 0
    for given in made:
        assert check(verifier, given).verified


def test_an_answer_of_many_chunks() -> None:
    node = open_node()
    ids = node.encode(" ".join(PROMPTS) * 12)
    assert len(ids) > CHUNK
    for cut in (CHUNK - 1, CHUNK, CHUNK + 1):
        for given in node.answer([ids[:cut]], replace(SAMPLED, max_tokens=40)):
            report = check(node, given)
            assert report.verified, report.lines()


def test_one_token() -> None:
    node = open_node()
    for given in node.answer([node.encode("A")], replace(SAMPLED, max_tokens=1)):
        assert check(node, given).verified and len(given.disclosure.state_digests) == 1


def test_a_seed_of_the_clients_own() -> None:
    node = open_node()
    for given in node.answer(prompts(node, 2), replace(SAMPLED, seed=-7)):
        assert given.disclosure.signed.receipt.seed == 2**64 - 7
        assert check(node, given).verified


def test_another_trained_model(shared_data: Path) -> None:
    folder = shared_data / "weights" / "tinystories-656k"
    if not folder.is_dir():
        pytest.skip(f"the trained model is not at {folder}")
    node = open_node(folder)
    for given in node.answer(prompts(node, 4)):
        assert check(node, given).verified
    assert node.subject.model_root != open_node().subject.model_root


def test_a_pack_has_the_root_of_its_checkpoint(pocket: Path) -> None:
    """Fresh codes, those that a pack kept, and those of each instruction set: one root."""
    hows: list[dict[str, Any]] = [{"pack_cache": False}, {"threads": 2}, {}, *({"isa": isa} for isa in cpu.supported())]
    roots = {open_node(pocket, weights="w8", **how).subject.model_root for how in hows}
    assert len(roots) == 1


def long_run(weights: str) -> Iterator[Given]:
    for way in ways(weights):
        node = open_node(**WEIGHTS[weights], **way)
        yield from node.answer(prompts(node), replace(SAMPLED, max_tokens=200), n=2)


@pytest.mark.slow
@pytest.mark.parametrize("weights", WEIGHTS)
def test_ten_thousand_tokens(weights: str) -> None:
    verifiers = [open_node(**WEIGHTS[weights], **way) for way in ways(weights)]
    checked = 0
    for given in long_run(weights):
        for verifier in verifiers:
            assert check(verifier, given).verified
            checked += len(given.disclosure.output_ids)
    assert checked >= 10_000 or len(verifiers) == 1


def test_the_verifier_and_the_node_need_not_agree_on_room() -> None:
    """But where an answer of a request without a limit fills the node's, the verifier must have the same."""
    node, verifier, alike = open_node(max_context=64), open_node(), open_node(max_context=64)
    for given in node.answer(prompts(node, 2), replace(SAMPLED, max_tokens=20)):
        assert check(verifier, given).verified
    for given in node.answer(prompts(node, 1), SamplingParams(max_tokens=None, temperature=0.7, ignore_eos=True)):
        assert tokens_of([given]) + len(given.known.prompt_ids or ()) == 64
        assert check(alike, given).verified
        assert "give --max-context 64 if that is the node's" in reason(check(verifier, given), "limit")


def test_an_answer_that_ends_by_itself_met_no_limit() -> None:
    node, verifier = open_node(max_context=300), open_node()
    params = SamplingParams(max_tokens=None, temperature=0.0, stop=(".",))
    for given in node.answer(prompts(node, 2), params):
        assert given.disclosure.signed.receipt.finish_reason is FinishReason.STOP
        assert check(verifier, given).verified


def test_nodes_of_other_models_have_other_names() -> None:
    subjects = [open_node(**options).subject for options in WEIGHTS.values()]
    assert len({one.model_root for one in subjects}) == len(subjects)
    assert len({one.profile for one in subjects}) == len(subjects)
    assert len({one.tokenizer for one in subjects}) == 1
