"""Nodes that lie about ends, counts, texts and receipts: rows 10 to 12 and 14 of the table in docs/receipts.md."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from nearfield.core.request import Request
from nearfield.core.types import FinishReason
from nearfield.kernels import cpu
from nearfield.proof.claims import Known
from nearfield.proof.digest import hash_ids, state_root
from nearfield.proof.disclosure import Disclosure, from_json
from nearfield.proof.errors import ReceiptError
from nearfield.proof.notary import Witness
from nearfield.proof.receipt import LimitSource
from nearfield.proof.replay import replay
from nearfield.proof.report import Outcome
from nearfield.proof.sampler_spec import sampler_hash
from nearfield.proof.verify import chain_fault
from tests.proof.node import (
    CREATED,
    PROMPTS,
    SAMPLED,
    Given,
    Node,
    answer_of,
    check,
    forged,
    nonces,
    prompts,
    reason,
    resigned,
)
from tests.proof.signer import NodeKey

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

FIRST = "tokens 0 to 31"


# 10: ends and counts

@pytest.mark.parametrize("told", [FinishReason.STOP, FinishReason.LENGTH])
def test_an_early_end(honest: Node, told: FinishReason) -> None:
    [given] = honest.answer(prompts(honest, 1))
    states = replay(honest.loaded, answer_of(given)).states
    cheat = forged(given, given.disclosure.output_ids[:20], states[:20], finish_reason=told)
    assert reason(check(honest, cheat), "finish") == (
        f"the receipt says {told}, and the answer goes on after token 19")


def test_tokens_after_the_end(honest: Node) -> None:
    params = replace(SAMPLED, max_tokens=400, ignore_eos=False, temperature=0.0)
    made = honest.answer([honest.encode("Tell me about the sea.")], params)
    [given] = [one for one in made if one.disclosure.signed.receipt.finish_reason is FinishReason.STOP]
    ids = (*given.disclosure.output_ids, 5, 6, 7)
    longer = forged(given, ids, replay(honest.loaded, replace(answer_of(given), output_ids=ids)).states)
    assert "ends the answer (stop), and 3 more follow" in reason(check(honest, longer), "finish")
    wrong = resigned(given, finish_reason=FinishReason.LENGTH)
    assert reason(check(honest, wrong), "finish") == "reason: expected stop, receipt has length"


def test_inflated_counts(honest: Node) -> None:
    [given] = honest.answer(prompts(honest, 1))
    prompt = len(honest.encode(PROMPTS[0]))
    assert f"expected ({prompt}, 40), receipt has ({prompt}, 50)" in reason(
        check(honest, resigned(given, completion_tokens=50)), "counts")
    assert "receipt has (99, 40)" in reason(check(honest, resigned(given, prompt_tokens=99)), "counts")
    assert "cached tokens" in reason(check(honest, resigned(given, cached_tokens=1000)), "counts")


def test_a_shorter_limit_than_was_asked(honest: Node) -> None:
    made = honest.answer(prompts(honest, 1), ask=lambda r: replace(r, params=replace(r.params, max_tokens=20)))
    sampler = replace(made[0].disclosure.sampler, max_tokens=20)
    told = resigned(made[0], sampler=sampler, sampler_hash=sampler_hash(sampler))
    assert reason(check(honest, told), "limit") == "the request asked for 40, the receipt has 20"
    assert reason(check(honest, made[0]), "finish").endswith("goes on after token 19")


def capped(node: Node, asked: int | None, held: int, source: LimitSource) -> Given:
    """An answer that was held to `held` tokens in place of what was asked, and a receipt that says why."""
    asking = replace(SAMPLED, max_tokens=asked)
    request = Request("r", node.encode(PROMPTS[0]), asking)
    witness = Witness([replace(request, params=replace(asking, max_tokens=held))], nonces(0), limit=source)
    [given] = node.finish(witness.requests, witness)
    return replace(given, known=replace(given.known, params=asking))


def test_a_limit_that_nobody_asked_for(honest: Node) -> None:
    """The node tells it, and ends the answer rightly where it says."""
    for held in (1, 30):
        cheat = capped(honest, None, held, LimitSource.REQUEST)
        assert f"held the answer to {held} tokens, and the request named no limit" in reason(
            check(honest, cheat), "limit")
    assert "asked for 40" in reason(check(honest, capped(honest, 40, 39, LimitSource.REQUEST)), "limit")


@pytest.mark.parametrize("asked", [None, 40])
def test_a_limit_of_what_was_paid_for_is_told(honest: Node, asked: int | None) -> None:
    report = check(honest, capped(honest, asked, 9, LimitSource.PAYMENT))
    assert report.verified
    [told] = [one.reason for one in report.checks if one.name == "limit"]
    assert "paid for held the answer to 9 tokens" in told


def test_payment_is_no_reason_for_a_longer_answer(honest: Node) -> None:
    assert "asked for 8" in reason(check(honest, capped(honest, 8, 9, LimitSource.PAYMENT)), "limit")


def test_another_time_than_that_of_the_request(honest: Node) -> None:
    """A template may tell the date, and a node may not choose it."""
    [given] = honest.answer(prompts(honest, 1))
    for created in (0, CREATED - 3600, CREATED + 3600, 2**64 - 1):
        assert "by the clock here" in reason(check(honest, resigned(given, created=created)), "time")
    assert check(honest, resigned(given, created=CREATED + 60)).verified


def test_whose_key_it_is_must_be_known_to_be_said(honest: Node) -> None:
    [given] = honest.answer(prompts(honest, 1))
    stranger = replace(given, known=replace(given.known, public_key=NodeKey(9).public_key))
    assert "public key: expected" in reason(check(honest, stranger), "node")
    told = {one.name: one for one in check(honest, replace(given, known=replace(given.known, public_key=None))).checks}
    assert told["node"].outcome is Outcome.UNCHECKED and NodeKey().public_key in told["node"].reason
    assert told["cached"].outcome is Outcome.UNCHECKED and "node's word" in told["cached"].reason


# 11: edits

def test_edited_text(honest: Node) -> None:
    [given] = honest.answer(prompts(honest, 1))
    cheat = replace(given, known=replace(given.known, text=given.text[:10] + "!" + given.text[11:]))
    assert "at character 10" in reason(check(honest, cheat), "text")


def test_edited_tokens(honest: Node) -> None:
    """Whatever is done with the states: the edited token is not the one that is chosen."""
    [given] = honest.answer(prompts(honest, 1))
    ids = list(given.disclosure.output_ids)
    ids[7] = (ids[7] + 1) % 2000
    edited = replace(answer_of(given), output_ids=tuple(ids))
    cheat = forged(given, ids, replay(honest.loaded, edited).states)
    assert reason(check(honest, cheat), "tokens").startswith(
        f"token 7: expected {given.disclosure.output_ids[7]}, receipt has {ids[7]}")
    lazy = resigned(given, output_ids=tuple(ids), output_hash=hash_ids("output", ids))
    assert reason(check(honest, lazy), "states").startswith(FIRST)
    hidden = replace(given, disclosure=replace(given.disclosure, output_ids=tuple(ids)))
    assert "hash of the ids" in reason(check(honest, hidden), "output")


# 12: old and spliced receipts

def test_an_old_receipt(honest: Node) -> None:
    old, new = (honest.answer(prompts(honest, 1), luck=luck)[0] for luck in (1, 2))
    assert reason(check(honest, replace(old, known=new.known)), "client nonce").startswith("nonce: expected")


def test_spliced_receipts(honest: Node) -> None:
    asked = tuple(Request(f"s{i}", honest.encode(text), SAMPLED) for i, text in enumerate(PROMPTS[:2]))
    one, two = honest.finish(asked, Witness(asked, nonces(0)))
    theirs = two.disclosure
    signed = replace(one.disclosure.signed, receipt=replace(
        one.disclosure.signed.receipt, state_root=theirs.signed.receipt.state_root))
    unsigned = replace(one, disclosure=replace(one.disclosure, signed=signed, state_digests=theirs.state_digests))
    assert "has not signed" in reason(check(honest, unsigned), "signature")
    again = resigned(one, state_digests=theirs.state_digests, state_root=theirs.signed.receipt.state_root)
    assert reason(check(honest, again), "states").startswith(FIRST)
    swapped = resigned(one, state_digests=one.disclosure.state_digests[::-1])
    assert "not those of the receipt's root" in reason(check(honest, swapped), "states")
    moved = replace(one, disclosure=replace(two.disclosure, output_ids=one.disclosure.output_ids))
    assert reason(check(honest, moved), "place").startswith("index")


def test_two_chains(honest: Node) -> None:
    made = [given.disclosure.signed.receipt for given in honest.answer(prompts(honest, 3))]
    assert chain_fault(made) is None and chain_fault([made[0], made[2]]) is None
    assert chain_fault([made[1], made[0]]) == "receipt 1 comes after receipt 2"
    other = replace(made[1], created=1)
    assert chain_fault([made[1], other]) == "receipt 2 comes after receipt 2"
    assert chain_fault([replace(made[0], created=1), made[1]]) == (
        "receipt 2 does not name receipt 1 as the one before it")
    assert "different keys" in str(chain_fault([made[0], replace(made[1], public_key=bytes(32))]))


# 14: receipts whose claims would break a careless verifier

def hostile(given: Given) -> Iterator[Given]:
    one, known = given.disclosure, given.known
    yield forged(given, (), ())
    yield forged(given, (2**32 - 1,) * 3, (b"",) * 3)
    yield resigned(given, state_digests=(), state_root=state_root(()))
    yield resigned(given, state_digests=one.state_digests * 3, state_root=state_root(one.state_digests * 3))
    yield replace(given, known=replace(known, prompt_ids=(10**9,)))
    yield replace(given, known=replace(known, prompt_ids=()))
    changes: list[dict[str, Any]] = [{"stop_token_ids": (2**32 - 1,)}, {"logit_bias": {2**31: 1.0}}, {"min_tokens": 40,
                                     "stop_token_ids": tuple(range(2048))}]
    for change in changes:
        sampler = replace(one.sampler, **change)
        yield resigned(given, sampler=sampler, sampler_hash=sampler_hash(sampler))


def test_hostile_receipts_are_refused_without_a_crash(honest: Node) -> None:
    [given] = honest.answer(prompts(honest, 1))
    for cheat in hostile(given):
        try:
            report = check(honest, cheat)
        except ReceiptError:
            continue
        assert report.failures and not report.verified, report.lines()


def test_nothing_known_is_nothing_verified(honest: Node) -> None:
    [given] = honest.answer(prompts(honest, 1))
    report = check(honest, replace(given, known=Known()))
    assert not report.failures and not report.replayed and not report.verified


def test_disclosures_are_what_the_wire_carries(honest: Node) -> None:
    """The checks above hold of what was read from JSON: nothing else reaches a client."""
    [given] = honest.answer(prompts(honest, 1), replace(SAMPLED, logit_bias={5: 1.5}, stop=("zzz",), top_k=40))
    again: Disclosure = from_json(given.disclosure.to_json())
    assert again == given.disclosure and check(honest, replace(given, disclosure=again)).verified
