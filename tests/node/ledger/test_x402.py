"""Top-ups: x402's headers, a facilitator that fails in every way, and money that is counted once whatever happens."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nearfield.core.errors import ConfigError
from nearfield.node.accounts import key_payer
from nearfield.node.credits import Credits
from nearfield.node.database import Database, LedgerError
from nearfield.node.errors import NodeError
from nearfield.node.facilitator import Facilitator
from nearfield.node.ledger import Ledger
from nearfield.node.prices import Rate
from nearfield.node.x402 import Credited, TopUpConfig, TopUps
from tests.node.ledger.doubles import Clock

USDC = "3e2210e1184b45b64c8a434c0a7e7b23cc04ea7eb7a6c3c32520d03d4afcb8af"
CONFIG = TopUpConfig("near:testnet", USDC, "node.testnet")
OFFER = {"scheme": "exact", "network": "near:testnet", "amount": "1000000", "asset": USDC, "payTo": "node.testnet",
         "maxTimeoutSeconds": 60}
URL = "https://node.example/v1/credits"
KEY, OTHER = "sk-" + "a" * 40, "sk-" + "b" * 40
ACTION = base64.b64encode(b"a signed delegate action").decode()


@dataclass
class Rail:
    """A facilitator and its chain: each signed payment executes once. `faults` are played before it answers right:
    a status, or an exception; with `after`, the payment is made before the fault shows."""

    verify: dict[str, Any] = field(default_factory=lambda: {"isValid": True, "payer": "alice.testnet"})
    settle: dict[str, Any] | None = None
    faults: list[int | Exception] = field(default_factory=list)
    after: bool = False
    calls: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    paid: dict[str, int] = field(default_factory=dict)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        self.calls.append(request.url.path)
        body = json.loads(request.content)
        self.seen.append((dict(request.headers), body))
        action = body["paymentPayload"]["payload"]["signedDelegateAction"]
        if request.url.path == "/x/verify":
            # What was paid no longer verifies: its nonce is used.
            return httpx.Response(200, json={"isValid": False, "invalidReason": "nonce_reused"}
                                  if action in self.paid else self.verify)
        if self.faults:
            if self.after:
                self.paid[action] = int(body["paymentRequirements"]["amount"])
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return httpx.Response(fault, json={"error": {"code": "unavailable", "message": "x"}})
        if self.settle is not None:
            return httpx.Response(200, json=self.settle)
        self.paid[action] = int(body["paymentRequirements"]["amount"])
        return httpx.Response(200, json={"success": True, "transaction": "F7p8", "network": "near:testnet",
                                         "payer": "alice.testnet"})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield Ledger(database, clock=Clock())
    database.close()


def payment(**changes: Any) -> str:
    """The value of PAYMENT-SIGNATURE."""
    body = {"x402Version": 2, "resource": {"url": URL}, "accepted": dict(OFFER),
            "payload": {"signedDelegateAction": ACTION}, **changes}
    return base64.b64encode(json.dumps(body).encode()).decode()


def post(ledger: Ledger, rail: Rail, header: str | None = None, key: str = KEY, body: bytes = b"") -> Credited:
    async def run() -> Credited:
        async with httpx.AsyncClient(transport=httpx.MockTransport(rail)) as client:
            top_ups = TopUps(CONFIG, ledger, Facilitator(client, "https://f.example/x/", "the-api-key"))
            headers = {"authorization": f"Bearer {key}"}
            return await top_ups.post({**headers, **({} if header is None else {"payment-signature": header})}, body,
                                      URL)

    return asyncio.run(run())


def refused(*args: Any, **kwargs: Any) -> NodeError:
    with pytest.raises(NodeError) as caught:
        post(*args, **kwargs)
    assert KEY not in caught.value.message and ACTION not in caught.value.message
    return caught.value


def decoded(value: str) -> Any:
    return json.loads(base64.b64decode(value, validate=True))


def balance(ledger: Ledger, key: str = KEY) -> int:
    return ledger.account(key_payer(key)).added


def recover(ledger: Ledger, rail: Rail) -> int:
    async def run() -> int:
        async with httpx.AsyncClient(transport=httpx.MockTransport(rail)) as client:
            return await TopUps(CONFIG, ledger, Facilitator(client, "https://f.example/x")).recover()

    return asyncio.run(run())


def test_what_to_pay(ledger: Ledger) -> None:
    error = refused(ledger, Rail())
    assert error.status == 402 and "pay for 1 dollars of credit" in error.message
    assert decoded(error.headers["PAYMENT-REQUIRED"]) == {
        "x402Version": 2, "error": "PAYMENT-SIGNATURE header is required", "accepts": [OFFER],
        "resource": {"url": URL, "description": "Credit for this node, on the key in Authorization",
                     "mimeType": "application/json"}}
    other = decoded(refused(ledger, Rail(), body=b'{"amount": "2500000"}').headers["PAYMENT-REQUIRED"])
    assert other["accepts"] == [{**OFFER, "amount": "2500000"}]


def test_a_payment_is_verified_settled_and_credited(ledger: Ledger) -> None:
    rail = Rail()
    done = post(ledger, rail, payment())
    assert done.body == {"credited_nano": 10**9, "available_nano": 10**9, "available_dollars": "1"}
    assert decoded(done.headers["PAYMENT-RESPONSE"]) == {
        "success": True, "transaction": "F7p8", "network": "near:testnet", "payer": "alice.testnet"}
    assert rail.calls == ["/x/verify", "/x/settle"]
    for headers, body in rail.seen:
        assert headers["x-api-key"] == "the-api-key"
        assert body == {"x402Version": 2, "paymentRequirements": OFFER, "paymentPayload": {
            "x402Version": 2, "accepted": OFFER, "payload": {"signedDelegateAction": ACTION}}}
    credit = Credits(ledger).find(hashlib.sha256(b"a signed delegate action").hexdigest())
    assert credit is not None and (credit.state, credit.request) == ("paid", "")


def test_the_same_payment_counts_once(ledger: Ledger) -> None:
    rail = Rail()
    first, second = post(ledger, rail, payment()), post(ledger, rail, payment())
    assert first == second and rail.calls == ["/x/verify", "/x/settle"]
    assert refused(ledger, rail, payment(), OTHER).status == 400
    assert (balance(ledger), balance(ledger, OTHER)) == (10**9, 0)


def test_the_same_payment_at_once_is_settled_once(ledger: Ledger) -> None:
    rail = Rail()

    async def run() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(rail)) as client:
            top_ups = TopUps(CONFIG, ledger, Facilitator(client, "https://f.example/x"))
            headers = {"authorization": f"Bearer {KEY}", "payment-signature": payment()}
            return await asyncio.gather(*(top_ups.post(headers, b"", URL) for _ in range(4)), return_exceptions=True)

    results = asyncio.run(run())
    assert sum(isinstance(result, Credited) for result in results) == 1
    assert all("duplicate_settlement" in str(result) for result in results if not isinstance(result, Credited))
    assert balance(ledger) == 10**9 and rail.calls.count("/x/settle") == 1


def test_what_does_not_verify_is_not_settled(ledger: Ledger) -> None:
    rail = Rail(verify={"isValid": False, "invalidReason": "insufficient_funds"})
    error = refused(ledger, rail, payment())
    assert error.status == 402 and "insufficient_funds" in error.message and rail.calls == ["/x/verify"]
    assert decoded(error.headers["PAYMENT-RESPONSE"]) == {
        "success": False, "errorReason": "insufficient_funds", "transaction": "", "network": "near:testnet"}
    assert decoded(error.headers["PAYMENT-REQUIRED"])["accepts"] == [OFFER]
    rail.verify = {"isValid": True}
    assert post(ledger, rail, payment()).body["credited_nano"] == 10**9


def test_a_settlement_that_fails_for_good(ledger: Ledger) -> None:
    rail = Rail(settle={"success": False, "errorReason": "delegate_action_expired", "transaction": "",
                        "network": "near:testnet"})
    error = refused(ledger, rail, payment())
    assert error.status == 402 and "delegate_action_expired" in error.message and "operator" not in error.message
    assert balance(ledger) == 0 and recover(ledger, rail) == 0
    rail.settle = None
    # Tried anew, and by another key if it likes: nothing had been paid.
    assert post(ledger, rail, payment(), OTHER).body["credited_nano"] == 10**9


OPEN = [500, 503, 409, 429, 302, httpx.ReadTimeout("x"), httpx.ConnectError("x")]


@pytest.mark.parametrize("fault", OPEN, ids=repr)
@pytest.mark.parametrize("made", [False, True])
def test_an_unknown_end_is_cleared_up_by_the_next_try(ledger: Ledger, fault: int | Exception, made: bool) -> None:
    rail = Rail(faults=[fault], after=made)
    error = refused(ledger, rail, payment())
    assert error.status == 503 and error.headers["Retry-After"] and balance(ledger) == 0
    assert post(ledger, rail, payment()).body["credited_nano"] == 10**9
    # A payment that was made no longer verifies, so it is not asked.
    assert rail.calls == ["/x/verify", "/x/settle", "/x/settle"]


@pytest.mark.parametrize("answer", [
    {}, {"success": "yes"}, {"success": True, "transaction": "", "network": "near:testnet"},
    {"success": True, "transaction": "F7", "network": "near:mainnet"}, {"success": True, "transaction": 7},
    {"success": False, "errorReason": "duplicate_settlement", "transaction": ""}])
def test_an_answer_that_says_nothing_leaves_it_open(ledger: Ledger, answer: dict[str, Any]) -> None:
    rail = Rail(settle=answer)
    assert refused(ledger, rail, payment()).status == 503
    rail.settle = None
    assert post(ledger, rail, payment()).body["credited_nano"] == 10**9 == balance(ledger)


@pytest.mark.parametrize("answer", [{"isValid": 1}, {}, [], "x"])
def test_a_verification_that_says_nothing(ledger: Ledger, answer: Any) -> None:
    rail = Rail(verify=answer)
    assert refused(ledger, rail, payment()).status == 503 and rail.calls == ["/x/verify"]


def test_a_payment_that_may_have_been_made_is_not_forgotten(ledger: Ledger) -> None:
    rail = Rail(faults=[503], after=True)
    assert refused(ledger, rail, payment()).status == 503
    rail.settle = {"success": False, "errorReason": "nonce_reused", "transaction": "", "network": "near:testnet"}
    error = refused(ledger, rail, payment())
    credit_id = hashlib.sha256(b"a signed delegate action").hexdigest()
    assert error.status == 402 and f"ask the node's operator about payment {credit_id}" in error.message
    found = Credits(ledger).find(credit_id)
    assert found is not None and found.state == "disputed" and balance(ledger) == 0
    assert refused(ledger, rail, payment(), OTHER).status == 400      # it stays its first payer's
    rail.settle = None
    assert post(ledger, rail, payment()).body["credited_nano"] == 10**9


def test_a_crash_between_settling_and_crediting(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    rail = Rail()

    def dies(*_: object) -> None:
        raise LedgerError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(Credits, "paid", dies)
        assert refused(ledger, rail, payment()).status == 503
    assert balance(ledger) == 0 and rail.paid
    assert recover(ledger, rail) == 1 and balance(ledger) == 10**9
    assert recover(ledger, rail) == 0
    # The client comes back, and gets its answer.
    assert post(ledger, rail, payment()).body["credited_nano"] == 10**9 == balance(ledger)


def test_recovery_waits_for_a_facilitator_that_is_down(ledger: Ledger) -> None:
    rail = Rail(faults=[503, 503], after=True)
    refused(ledger, rail, payment())
    assert recover(ledger, rail) == 0
    assert recover(ledger, rail) == 1 and balance(ledger) == 10**9


@pytest.mark.parametrize(("header", "reason"), [
    ("", "base64 of x402's PaymentPayload"), ("!", "base64"), (base64.b64encode(b"[]").decode(), "PaymentPayload"),
    ("A" * 60_000, "PaymentPayload"), (base64.b64encode(b"[" * 9_000).decode(), "PaymentPayload"),
    (payment(x402Version=1), "x402Version"), (payment(x402Version=True), "x402Version"),
    (payment(accepted={**OFFER, "payTo": "thief.testnet"}), "not what PAYMENT-REQUIRED offers"),
    (payment(accepted={**OFFER, "asset": "worthless.testnet"}), "not what"),
    (payment(accepted={**OFFER, "network": "near:mainnet"}), "not what"),
    (payment(accepted={**OFFER, "scheme": "upto"}), "not what"),
    (payment(accepted={**OFFER, "extra": {"assetTransferMethod": "x"}}), "not what"),
    (payment(accepted={**OFFER, "amount": 1000000}), "amount"),
    (payment(accepted={**OFFER, "amount": "1e6"}), "amount"),
    (payment(accepted={**OFFER, "amount": "1"}), "from 10000 to"), (payment(accepted=[]), "PaymentPayload"),
    (payment(accepted={**OFFER, "amount": "9" * 38}), "from 10000 to"), (payment(payload="x"), "PaymentPayload"),
    (payment(payload={"signedDelegateAction": 5}), "signedDelegateAction"),
    (payment(payload={"signedDelegateAction": ""}), "signedDelegateAction"),
    (payment(payload={"signedDelegateAction": "QQ=="[:3]}), "signedDelegateAction"),
    (payment(payload={"signedDelegateAction": "QR=="}), "only form"),     # as QQ==, written otherwise
])
def test_malformed_payments_say_why_and_ask_nobody(ledger: Ledger, header: str, reason: str) -> None:
    rail = Rail()
    error = refused(ledger, rail, header)
    assert error.status == 400 and reason in error.message and not rail.calls


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"amount": 5}', b'{"amount": "-5"}', b'{"amount": "5"}', b'{"x": 1}',
                                  b"[" * 50_000, b"\xff"])
def test_bodies_that_name_no_amount(ledger: Ledger, body: bytes) -> None:
    assert refused(ledger, Rail(), body=body).status == 400


@pytest.mark.parametrize("key", ["", "short", "x" * 300])
def test_a_key_is_needed(ledger: Ledger, key: str) -> None:
    with pytest.raises(NodeError) as caught:
        post(ledger, Rail(), payment(), key)
    assert caught.value.status == 401


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(
    inner, max_size=2) | st.dictionaries(st.sampled_from([*OFFER, "payload", "signedDelegateAction", "extra"]), inner,
                                         max_size=3))


@given(st.dictionaries(st.sampled_from(["x402Version", "accepted", "payload", "extensions"]), JSON))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_json_is_refused_with_a_reason(ledger: Ledger, changes: dict[str, Any]) -> None:
    if changes.keys() & {"x402Version", "accepted", "payload"}:
        assert refused(ledger, Rail(), payment(**changes)).status in (400, 402)


def test_options_that_can_not_be() -> None:
    with pytest.raises(ConfigError):
        TopUpConfig("near:testnet", USDC, "node.testnet", Rate(1, 1), amount=5, least=10)
