"""What gives receipts: for answers that ended, to the tenant that asked, for a while, within its memory."""

from pathlib import Path
from typing import Any

import pytest

from nearfield.core.request import Output, Request, SamplingParams
from nearfield.core.types import FinishReason
from nearfield.proof import notary
from nearfield.proof.chain import ReceiptChain
from nearfield.proof.errors import ReceiptError
from nearfield.proof.notary import KEPT_SECONDS, Notary, Witness
from nearfield.proof.receipt import SeedSource
from nearfield.proof.subject import SelfTest, Subject
from tests.proof.signer import NodeKey

SUBJECT = Subject(b"m" * 32, "cpu-test-v1", b"t" * 32, 100)
CLIENT = b"c" * 32


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def given(tmp_path: Path, clock: Clock) -> Notary:
    return Notary(SUBJECT, NodeKey(), ReceiptChain(tmp_path / "receipts.chain"),
                  SelfTest("cpu-test-v1", "test", None, ""), clock=clock)


def asked(count: int = 1, **params: Any) -> tuple[Request, ...]:
    return tuple(Request(f"r{i}", (1, 2, 3), SamplingParams(**params)) for i in range(count))


def ended(witness: Witness, tokens: int = 2) -> Witness:
    """Every answer has come to its end."""
    for index in range(len(witness.requests)):
        for count in range(1, tokens + 1):
            reason = FinishReason.STOP if count == tokens else None
            witness.add(index, Output("", (count,), "", (), reason, 3, 1, count, hidden=bytes([index, count]) * 4))
    return witness


def test_it_observes_under_the_seed_of_both_nonces(given: Notary) -> None:
    witness = given.witness(asked(2), CLIENT)
    assert all(request.observe for request in witness.requests)
    seeds = [request.params.seed for request in witness.requests]
    assert None not in seeds and seeds[0] != seeds[1]
    assert given.witness(asked(2), CLIENT).requests[0].params.seed != seeds[0]   # the node's nonce is fresh
    assert given.witness(asked(seed=9), CLIENT).requests[0].params.seed == 9


def test_receipts_follow_each_other(given: Notary) -> None:
    one = given.certify(ended(given.witness(asked(2), CLIENT)), "a", 1_800_000_000)
    two = given.certify(ended(given.witness(asked(1, seed=9), CLIENT)), "b", 1_800_000_000)
    all_of_them = [each.signed.receipt for each in (*one, *two)]
    assert [each.number for each in all_of_them] == [1, 2, 3]
    assert [each.previous for each in all_of_them] == [bytes(32), *(each.digest() for each in all_of_them[:2])]
    assert [each.seed_source for each in all_of_them] == [SeedSource.NONCES] * 2 + [SeedSource.REQUEST]
    assert {each.created for each in all_of_them} == {1_800_000_000}


def test_the_limit_without_max_tokens_is_the_contexts(given: Notary) -> None:
    requests = (Request("r", (1, 2, 3), SamplingParams(max_tokens=None)),)
    [one] = given.certify(ended(given.witness(requests, CLIENT)), "a", 1_800_000_000)
    assert one.sampler.max_tokens == 97


@pytest.mark.parametrize("reason", [None, FinishReason.ABORT])
def test_an_answer_that_did_not_end_has_none(given: Notary, reason: FinishReason | None) -> None:
    witness = given.witness(asked(), CLIENT)
    witness.add(0, Output("", (1,), finish_reason=reason, hidden=b"1234"))
    with pytest.raises(ReceiptError, match="not ended"):
        given.certify(witness, "a", 1_800_000_000)
    assert given.find("a") is None
    [after] = given.certify(ended(given.witness(asked(), CLIENT)), "b", 1_800_000_000)
    assert after.signed.receipt.number == 1


def test_it_is_found_by_its_tenant_for_a_while(given: Notary, clock: Clock) -> None:
    made = given.certify(ended(given.witness(asked(), CLIENT)), "a", 1_800_000_000, "tenant")
    assert given.find("a", "tenant") == tuple(made)
    assert given.find("a") is None and given.find("b", "tenant") is None
    clock.time = KEPT_SECONDS + 1
    assert given.find("a", "tenant") is None


def test_the_oldest_make_room(given: Notary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notary, "MAX_KEPT_BYTES", 4096)
    for name in "abcdef":
        given.certify(ended(given.witness(asked(), CLIENT)), name, 1_800_000_000)
    assert given.find("a") is None and given.find("f") is not None
