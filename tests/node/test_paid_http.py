"""Paid requests over HTTP: balances of keys, and vouchers of a channel that stands in the real contract (local VM)."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from nearfield.node.accounts import key_payer
from nearfield.node.config import parse_config
from nearfield.node.credits import Credits
from nearfield.node.identity import create
from tests.node.contracts import NEAR, ChannelBench, borsh_state
from tests.node.fake_rpc import FakeRpc
from tests.node.node_serving import ServedNode, served_node
from tests.node.rpc_server import rpc_server

KEY = "sk-" + "a" * 40
PRICES = {"prompt": "1", "completion": "2", "cached": "0.5"}     # 1000, 2000 and 500 nano-dollars a token
LONG = {"max_tokens": 200, "ignore_eos": True}


def ask(node: ServedNode, headers: dict[str, str], **fields: Any) -> httpx.Response:
    body = {"model": node.model, "prompt": "Hi", **fields}
    return node.http.post("/v1/completions", json=body, headers=headers)


def cost(usage: dict[str, Any]) -> int:
    cached: int = usage["prompt_tokens_details"]["cached_tokens"]
    total: int = 1000 * (usage["prompt_tokens"] - cached) + 500 * cached + 2000 * usage["completion_tokens"]
    return total


@pytest.fixture(params=["inside", "front"])
def prepaid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    options = {"payment": "prepaid", "prices": PRICES}
    with served_node(tmp_path_factory.mktemp("paid"), behind=request.param, config=parse_config(options)) as node:
        yield node


def test_generation_stops_when_the_balance_is_used_up(prepaid: ServedNode) -> None:
    ledger, headers = prepaid.node.ledger, {"Authorization": f"Bearer {KEY}"}
    Credits(ledger).grant("test", key_payer(KEY), 100_000)
    first = ask(prepaid, headers, max_tokens=5).json()["usage"]
    assert first["completion_tokens"] == 5
    left = 100_000 - cost(first)
    second = ask(prepaid, headers, **LONG).json()
    assert second["choices"][0]["finish_reason"] == "length"
    assert second["usage"]["completion_tokens"] == (left - 1000 * second["usage"]["prompt_tokens"]) // 2000
    account = ledger.account(key_payer(KEY))
    assert account.spent == cost(first) + cost(second["usage"]) and account.reserved == 0
    assert 0 <= account.available < 5000
    third = ask(prepaid, headers)
    assert third.status_code == 402 and f"{account.available} nano-dollars are left" in third.json()["error"]["message"]


def test_a_stream_is_charged_once_and_a_refusal_not_at_all(prepaid: ServedNode) -> None:
    ledger, headers = prepaid.node.ledger, {"Authorization": f"Bearer {KEY}"}
    Credits(ledger).grant("test", key_payer(KEY), 10**9)
    assert ask(prepaid, headers, temperature=-1).status_code == 400
    assert ledger.account(key_payer(KEY)).spent == ledger.account(key_payer(KEY)).reserved == 0
    reply = ask(prepaid, headers, max_tokens=3, stream=True)
    assert reply.text.endswith("data: [DONE]\n\n")
    account = ledger.account(key_payer(KEY))
    total = ledger.totals()[0]
    assert account.spent == total.cost_nano > 0 and account.reserved == 0 and total.responses == 1


def test_without_a_usable_key_nothing_runs(prepaid: ServedNode) -> None:
    assert ask(prepaid, {"Authorization": "Bearer short"}).status_code == 401
    assert ask(prepaid, {}).status_code == 402
    assert prepaid.node.ledger.totals() == []


@dataclass(frozen=True)
class Channels:
    """A node that is paid by vouchers, and the world in which its channels are."""

    node: ServedNode
    bench: ChannelBench

    def voucher(self, spent: int, channel: str = "one") -> dict[str, str]:
        state = borsh_state(channel, spent)
        return {"X-Payments-Signature": base64.b64encode(state + b"\0" + self.bench.sender.sign(state)).decode()}

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.node.http.get("/pc/state/one").json()
        return found


@pytest.fixture
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channels]:
    home, bench = tmp_path_factory.mktemp("channels"), ChannelBench()
    identity = create(home)
    receiver = {"account_id": identity.account_id, "public_key": identity.public_key}
    bench.open("one", NEAR, receiver=receiver)
    with rpc_server(FakeRpc(bench.vm)) as url:
        # A NEAR for 10^18 nano-dollars: a nano-dollar is a million yoctoNEAR.
        options = {"payment": "channel", "prices": PRICES, "channels": bench.contract, "rpc_url": url,
                   "nano_dollars_per_near": 10**18}
        with served_node(home, config=parse_config(options)) as node:
            yield Channels(node, bench)


def test_vouchers_pay_and_bound_an_answer(channels: Channels) -> None:
    node, unit = channels.node, 10**6
    owed = ask(node, {})
    assert owed.status_code == 402 and "X-Payments-Signature" in owed.json()["error"]["message"]
    first = ask(node, channels.voucher(50_000 * unit), **LONG).json()
    assert first["choices"][0]["finish_reason"] == "length"
    spent = cost(first["usage"])
    assert 0 <= 50_000 - spent < 5000
    state = channels.state()
    assert (state["spent_balance"], state["charged_balance"]) == (str(50_000 * unit), str(spent * unit))
    # Less than before, the same with too little left, more than the deposit, and another's signature.
    assert ask(node, channels.voucher(40_000 * unit)).status_code == 402
    assert ask(node, channels.voucher(50_000 * unit)).status_code == 402
    assert ask(node, channels.voucher(NEAR + 1)).status_code == 402
    forged = channels.voucher(60_000 * unit)["X-Payments-Signature"][:-8] + "AAAAAAA="
    assert ask(node, {"X-Payments-Signature": forged}).status_code == 400
    assert channels.state() == state
    assert ask(node, channels.voucher(80_000 * unit), max_tokens=2).status_code == 200


def test_a_voucher_can_come_in_the_body_and_be_checked_before(channels: Channels) -> None:
    signed = channels.bench.sender.state("one", 10**11)
    checked = channels.node.http.post("/pc/validate", json=signed)
    assert checked.status_code == 200 and checked.json()["added_balance"] == str(channels.bench.added("one"))
    reply = ask(channels.node, {}, max_tokens=2, near_headers=channels.voucher(10**11))
    assert reply.status_code == 200
    assert channels.node.http.get("/pc/state/none").status_code == 404


def test_what_was_vouched_for_can_be_withdrawn(channels: Channels) -> None:
    assert ask(channels.node, channels.voucher(5 * 10**10), max_tokens=2).status_code == 200
    earned = channels.node.node.ledger.earnings()
    assert earned.voucher_units == 5 * 10**10 and 0 < earned.channel_units <= earned.voucher_units
