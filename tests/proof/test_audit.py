"""The auditor: of n false answers all go unnoticed with probability (1 - f)^n, and a node can not tell which count."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from nearfield.core.errors import NearfieldError
from nearfield.proof.audit import Auditor, Exchange, Refused
from nearfield.proof.disclosure import Disclosure
from nearfield.proof.keys import key_bytes
from nearfield.proof.receipt import sign
from tests.proof.signer import NodeKey
from tests.proof.test_receipt import OPEN, RECEIPT

FALSE = "tokens: token 3: expected 7, receipt has 9"


class Script:
    """A node over a transport: receipts of one chain, and the order in which things happened."""

    def __init__(self, change: Callable[[Disclosure, int], Disclosure] = lambda one, _: one) -> None:
        self.events: list[str] = []
        self._change, self._number, self._last, self._nonce = change, 0, bytes(32), b""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.events.append(request.url.path)
        if request.url.path == "/v1/receipt/nonce":
            return httpx.Response(200, json={"nonce": "ab" * 32, "expires_in": 600})
        if request.method == "POST":
            self._nonce = bytes.fromhex(request.headers["x-receipt-nonce"])
            assert request.headers["x-receipt-node-nonce"] == "ab" * 32
            return httpx.Response(200, json={"id": "cmpl-1", "choices": [], "usage": {}})
        self._number += 1
        receipt = replace(RECEIPT, number=self._number, previous=self._last, client_nonce=self._nonce,
                          node_nonce=bytes.fromhex("ab" * 32))
        self._last = receipt.digest()
        one = self._change(replace(OPEN, signed=sign(receipt, NodeKey())), self._number)
        return httpx.Response(200, content=json.dumps({"id": "cmpl-1", "receipts": [one.to_json()]}))


def auditor(script: Script, reports: Callable[[Exchange], list[str]], fraction: float,
            draw: Callable[[], float]) -> Auditor:
    http = httpx.Client(transport=httpx.MockTransport(script), base_url="http://node")
    return Auditor(http, reports, fraction, draw=draw)


def ask(one: Auditor, count: int = 1) -> list[str]:
    for _ in range(count):
        one.ask("/v1/completions", {"prompt": "Hi"})
    return one.tally.faults


def test_false_answers_go_unnoticed_as_often_as_the_fraction_says() -> None:
    """(1 - 0.1)^10 = 0.35 of 250 audits, within four standard deviations."""
    numbers, trials, length = random.Random(13), 250, 10
    unnoticed = 0
    for _ in range(trials):
        unnoticed += not ask(auditor(Script(), lambda _: [FALSE], 0.1, numbers.random), length)
    expected = (1 - 0.1) ** length
    assert abs(unnoticed / trials - expected) < 4 * (expected * (1 - expected) / trials) ** 0.5


def test_the_draw_comes_after_the_receipt() -> None:
    script = Script()

    def draw() -> float:
        script.events.append("draw")
        return 0.5

    ask(auditor(script, lambda _: [], 0.02, draw), 2)
    assert script.events == ["/v1/receipt/nonce", "/v1/completions", "/v1/receipt/cmpl-1", "draw"] * 2


def test_a_fault_names_the_response_and_the_reason() -> None:
    one = auditor(Script(), lambda _: [FALSE], 1.0, lambda: 0.0)
    assert ask(one) == ["cmpl-1: tokens: token 3: expected 7, receipt has 9"]
    assert (one.tally.responses, one.tally.replayed, one.tally.tokens) == (1, 1, 4)


def test_signatures_and_chains_are_checked_of_every_receipt() -> None:
    unsigned = Script(lambda one, _: replace(one, signed=replace(one.signed, signature=bytes(64))))
    assert "has not signed" in ask(auditor(unsigned, lambda _: [], 0.01, lambda: 0.9))[0]
    twice = Script(lambda one, number: replace(one, signed=sign(replace(one.signed.receipt, number=1),
                                                                          NodeKey())))
    assert "chain: receipt 1 comes after receipt 1" in ask(auditor(twice, lambda _: [], 0.01, lambda: 0.9), 2)[0]


@pytest.mark.parametrize("changes, words", [
    ({"client_nonce": bytes(32)}, "client nonce"), ({"node_nonce": bytes(32)}, "node nonce"),
    ({"public_key": key_bytes(NodeKey(2).public_key)}, "node: the receipt is of another key")])
def test_every_receipt_is_of_this_request_and_this_node(changes: dict[str, Any], words: str) -> None:
    other = NodeKey(2) if "public_key" in changes else NodeKey()
    script = Script(lambda one, _: replace(one, signed=sign(replace(one.signed.receipt, **changes), other)))
    http = httpx.Client(transport=httpx.MockTransport(script), base_url="http://node")
    [fault] = ask(Auditor(http, lambda _: [], 0.5, public_key=NodeKey().public_key, draw=lambda: 0.9))
    assert fault.startswith(f"cmpl-1: {words}")


def test_answers_that_a_payment_cut_short_are_counted() -> None:
    one = auditor(Script(), lambda _: [], 0.5, lambda: 0.9)
    ask(one, 3)
    assert one.tally.held == 3 and not one.tally.faults


def test_a_receipt_that_is_refused_is_a_fault_and_the_audit_goes_on() -> None:
    script = Script()

    def reply(request: httpx.Request) -> httpx.Response:
        given = script(request)
        gone = request.url.path == "/v1/receipt/cmpl-1"
        return httpx.Response(404, json={"error": {"message": "gone"}}) if gone else given

    http = httpx.Client(transport=httpx.MockTransport(reply), base_url="http://node")
    one = Auditor(http, lambda _: [], 0.5, draw=lambda: 0.9)
    faults = ask(one, 2)
    assert len(faults) == 2 and "the node answers 404" in faults[0] and one.tally.responses == 2


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b'{"id": 5}', b'{"id": ""}', b'{"id": "a\\nb"}', b"data: x",
                                    b"\xff", b'{"id": "' + b"x" * 66_000 + b'"}', b"data: [DONE]"])
def test_an_answer_without_an_id_is_a_fault(answer: bytes) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        nonce = httpx.Response(200, json={"nonce": "ab" * 32})
        return httpx.Response(200, content=answer) if request.method == "POST" else nonce

    http = httpx.Client(transport=httpx.MockTransport(reply), base_url="http://node")
    assert "has no id" in ask(Auditor(http, lambda _: [], 0.5))[0]


def test_an_id_is_no_path() -> None:
    """What a node names does not lead the auditor elsewhere."""
    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(200, json={"nonce": "ab" * 32, "id": "../../admin?x=1#y"})

    seen: list[bytes] = []
    ask(Auditor(httpx.Client(transport=httpx.MockTransport(reply), base_url="http://node"), lambda _: [], 0.5))
    assert seen[-1] == b"/v1/receipt/..%2F..%2Fadmin%3Fx%3D1%23y"


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"receipts": []}', b'{"receipts": [{}]}', b"\xff"])
def test_a_receipt_that_is_none_is_a_fault(answer: bytes) -> None:
    script = Script()

    def reply(request: httpx.Request) -> httpx.Response:
        given = script(request)
        return httpx.Response(200, content=answer) if request.url.path == "/v1/receipt/cmpl-1" else given

    http = httpx.Client(transport=httpx.MockTransport(reply), base_url="http://node")
    one = Auditor(http, lambda _: [], 0.5, draw=lambda: 0.9)
    assert len(ask(one)) == 1


@pytest.mark.parametrize("reply", [httpx.Response(404, json={"error": {"message": "no receipts"}}),
                                   httpx.Response(200, content=b"x"), httpx.Response(200, json={"nonce": 5})])
def test_a_server_that_gives_no_nonce_refuses(reply: Any) -> None:
    http = httpx.Client(transport=httpx.MockTransport(lambda _: reply), base_url="http://node")
    one = Auditor(http, lambda _: [], 0.5)
    with pytest.raises(Refused):
        ask(one)
    assert (one.tally.responses, one.tally.refused, one.tally.faults) == (0, 1, [])


def test_a_node_out_of_reach_ends_the_audit() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(NearfieldError, match="can not be reached"):
        ask(Auditor(httpx.Client(transport=httpx.MockTransport(refuse), base_url="http://node"), lambda _: [], 0.5))
