"""Planned calls, signed and sent: end to end through the RPC double and the contracts, and each way it can fail."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.core.errors import ConfigError
from nearfield.node.chain import NETWORKS, Chain, Plan, UnknownOutcomeError
from nearfield.node.channels import fetch_channel, plan_close, plan_withdrawal
from nearfield.node.rpc import ChainError
from nearfield.node.vouchers import Voucher, check_voucher
from tests.node.contracts import NEAR, OWN_FUNDS, Person, borsh_state, wasm
from tests.node.fake_rpc import URL, FakeRpc, fault
from tests.node.near_vm import Account, LocalVM

CONTRACT = "channels.testnet"


class World:
    """The channel contract behind an RPC node, with a sender and a node that both have keys there."""

    def __init__(self) -> None:
        vm = LocalVM()
        vm.deploy(CONTRACT, wasm("channel"), OWN_FUNDS)
        self.sender, self.node = Person("alice.testnet"), Person("node.testnet")
        self.rpc = FakeRpc(vm)
        for person in (self.sender, self.node):
            vm.accounts[person.account_id] = Account(100 * NEAR)
            self.rpc.keys[person.account_id, person.borsh_key[1:]] = 41
        self.vm = vm

    @asynccontextmanager
    async def chain(self, person: Person | None = None, network: str = "testnet") -> AsyncIterator[Chain]:
        async with Chain(network, URL, person, retry_seconds=0, transport=self.rpc.transport()) as chain:
            yield chain

    def run(self, work: Callable[[Chain], Awaitable[Any]], person: Person | None = None) -> Any:
        async def running() -> Any:
            async with self.chain(person or self.sender) as chain:
                return await work(chain)

        return asyncio.run(running())

    def opening(self, chain: Chain, deposit: int = NEAR) -> Plan:
        args = {"channel_id": "c1", "receiver": self.node.party(), "sender": self.sender.party()}
        return chain.plan(CONTRACT, "open_channel", args, deposit=deposit)


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_signed_is_what_the_dry_run_shows(world: World) -> None:
    async def work(chain: Chain) -> Plan:
        plan = world.opening(chain, deposit=3 * NEAR // 2)
        assert world.rpc.requests == [], "a dry run asks nobody"
        await chain.send(plan)
        return plan

    plan = world.run(work)
    [transaction] = world.rpc.transactions
    assert (transaction.signer, transaction.receiver, transaction.method, transaction.args, transaction.deposit,
            transaction.gas, transaction.nonce) == (
        plan.signer_id, plan.receiver_id, plan.method, plan.args, plan.deposit, plan.gas, 42)
    assert transaction.public_key == world.sender.borsh_key[1:]
    shown = str(plan)
    for part in ("testnet", "alice.testnet", world.sender.public_key, CONTRACT, "open_channel", plan.args.decode(),
                 "1.5 NEAR (1500000000000000000000000 yoctoNEAR)", "40 Tgas"):
        assert part in shown
    assert json.loads(json.dumps(plan.as_json()))["args"]["channel_id"] == "c1"


def test_a_channel_from_opening_to_close(world: World) -> None:
    world.run(lambda chain: chain.send(world.opening(chain)))

    def voucher(spent: int, channel_id: str = "c1") -> Voucher:
        return Voucher(channel_id, spent, world.sender.sign(borsh_state(channel_id, spent)))

    async def settle(chain: Chain) -> None:
        channel = await fetch_channel(chain, CONTRACT, "c1")
        assert channel is not None and channel.receiver.account_id == "node.testnet"
        assert channel.sender.public_key == world.sender.public_key and channel.force_close_started is None
        with pytest.raises(ChainError, match="withdraw first"):
            plan_close(chain, CONTRACT, channel, NEAR // 2, world.node)
        with pytest.raises(ChainError, match="exceeds the deposit"):
            plan_withdrawal(chain, CONTRACT, channel, voucher(channel.added_balance + 1))
        with pytest.raises(ChainError, match="of another channel"):
            plan_withdrawal(chain, CONTRACT, channel, voucher(NEAR // 2, "c2"))
        check_voucher(voucher(NEAR // 2), channel, world.node)
        await chain.send(plan_withdrawal(chain, CONTRACT, channel, voucher(NEAR // 2)))
        channel = await fetch_channel(chain, CONTRACT, "c1")
        assert channel is not None and channel.withdrawn_balance == NEAR // 2
        with pytest.raises(ChainError, match="nothing to withdraw"):
            plan_withdrawal(chain, CONTRACT, channel, voucher(NEAR // 2))
        with pytest.raises(ChainError, match="another key"):
            plan_close(chain, CONTRACT, channel, NEAR // 2, world.sender)
        await chain.send(plan_close(chain, CONTRACT, channel, NEAR // 2, world.node))
        assert await fetch_channel(chain, CONTRACT, "c1") is None

    world.run(settle, world.node)
    assert [transaction.nonce for transaction in world.rpc.transactions if transaction.signer == "node.testnet"] \
        == [42, 43]
    assert world.vm.accounts["node.testnet"].balance == 100 * NEAR + NEAR // 2


def test_calls_at_once_use_different_nonces(world: World) -> None:
    world.run(lambda chain: chain.send(world.opening(chain)))

    async def work(chain: Chain) -> None:
        plan = chain.plan(CONTRACT, "topup", {"channel_id": "c1"}, deposit=1)
        await asyncio.gather(*(chain.send(plan) for _ in range(5)))

    world.run(work)
    assert len({transaction.nonce for transaction in world.rpc.transactions}) == 6


def test_a_panic_of_the_contract_is_the_error(world: World) -> None:
    with pytest.raises(ChainError, match="open_channel of channels.testnet failed: Smart contract panicked: The dep"):
        world.run(lambda chain: chain.send(world.opening(chain, deposit=1)))
    with pytest.raises(ChainError, match="CONTRACT_EXECUTION_ERROR.*channel_id is missing"):
        world.run(lambda chain: chain.view(CONTRACT, "channel", {}))


def test_a_transfer_that_fails_is_an_error(world: World) -> None:
    world.run(lambda chain: chain.send(world.opening(chain)))
    del world.vm.accounts["node.testnet"]
    state = {"state": world.sender.state("c1", 5)}
    with pytest.raises(ChainError, match="a transfer that it caused failed: node.testnet"):
        world.run(lambda chain: chain.send(chain.plan(CONTRACT, "withdraw", state)))


def test_nothing_is_signed_on_another_chain_or_with_another_key(world: World) -> None:
    world.rpc.chain_id = "mainnet"
    with pytest.raises(ChainError, match="serves 'mainnet', the plan is for 'testnet'; nothing was sent"):
        world.run(lambda chain: chain.send(world.opening(chain)))
    plan = world.run(lambda chain: _value(world.opening(chain)))
    with pytest.raises(ChainError, match="another network or key"):
        world.run(lambda chain: chain.send(plan), world.node)
    world.rpc.chain_id = "testnet"
    world.rpc.keys.clear()
    with pytest.raises(ChainError, match="UNKNOWN_ACCESS_KEY") as error:
        world.run(lambda chain: chain.send(plan))
    assert error.value.cause == "UNKNOWN_ACCESS_KEY"
    assert world.rpc.transactions == []


async def _value(value: Any) -> Any:
    return value


def test_a_lost_answer_is_looked_up_and_never_sent_again(world: World) -> None:
    world.rpc.lost.add("send_tx")
    world.rpc.script["tx"] = [fault("UNKNOWN_TRANSACTION"), httpx.ConnectError("x"), None]
    done = world.run(lambda chain: chain.send(world.opening(chain)))
    assert done.transaction in world.rpc.outcomes
    assert world.rpc.requests.count("send_tx") == 1 and world.rpc.requests.count("tx") == 3


def test_a_lost_answer_of_a_failed_call_is_that_failure(world: World) -> None:
    world.rpc.lost.add("send_tx")
    with pytest.raises(ChainError, match="panicked"):
        world.run(lambda chain: chain.send(world.opening(chain, deposit=1)))


@pytest.mark.parametrize("answer", [fault("TIMEOUT_ERROR", status=408), httpx.Response(503, text="busy"),
                                    httpx.ReadTimeout("x"), fault("INTERNAL_ERROR", status=500),
                                    httpx.Response(200, json={}), httpx.Response(200, text="<html>")])
def test_an_outcome_that_is_not_known_says_so_with_the_hash(world: World, answer: httpx.Response | Exception) -> None:
    world.rpc.script["send_tx"] = [answer]
    with pytest.raises(UnknownOutcomeError, match=r"transaction \w{43,44} was sent, but its outcome is not known"):
        world.rpc.script["tx"] = [fault("UNKNOWN_TRANSACTION")] * 5
        world.run(lambda chain: chain.send(world.opening(chain)))
    assert world.rpc.requests.count("send_tx") == 1 and world.rpc.requests.count("tx") == 5


def test_a_refused_transaction_is_not_looked_up(world: World) -> None:
    world.rpc.script["send_tx"] = [fault("INVALID_TRANSACTION", {"TxExecutionError": {"InvalidTxError": "Expired"}})]
    with pytest.raises(ChainError, match="INVALID_TRANSACTION: Expired"):
        world.run(lambda chain: chain.send(world.opening(chain)))
    assert "tx" not in world.rpc.requests


def result(value: Any) -> httpx.Response:
    return httpx.Response(200, json={"result": value})


ODD: list[httpx.Response | Exception | None] = [
    httpx.Response(200, text="<html>"), httpx.Response(200, json=[]), httpx.Response(200, json={}), result(7),
    result({}), httpx.Response(200, json={"error": "no"}), httpx.Response(302),
    httpx.Response(200, json={"error": {"cause": 7, "data": {"a": {}}}}), result({"error": "wasm\x1b[2J failed"}),
    result({"result": [300]}), result({"result": "x"}), result({"nonce": -1, "block_hash": "x"}),
    result({"nonce": 1, "block_hash": "0" * 44}), httpx.Response(200, content=b"x" * (9 << 20)),
    result({"status": {"SuccessValue": "!"}, "receipts_outcome": []}),
    result({"status": {"SuccessValue": None}, "receipts_outcome": [7, {"outcome": 7}]}),
    result({"status": "Started", "receipts_outcome": []}), httpx.UnsupportedProtocol("x")]


@pytest.mark.parametrize("method", ["status", "query", "send_tx"])
@pytest.mark.parametrize("answer", ODD, ids=range(len(ODD)))
def test_odd_answers_are_clear_errors_without_the_access_key(
        world: World, method: str, answer: httpx.Response | Exception | None) -> None:
    world.rpc.script[method] = [answer]
    world.rpc.script["tx"] = [answer] * 5
    with pytest.raises(ChainError) as error:
        world.run(lambda chain: chain.send(world.opening(chain)))
    text = str(error.value)
    assert "secret-access-key" not in text and text.isprintable() and len(text) < 700


def test_views_of_odd_answers_are_clear_errors(world: World) -> None:
    for answer in ODD:
        world.rpc.script["query"] = [answer]
        with pytest.raises(ChainError):
            world.run(lambda chain: chain.view(CONTRACT, "channel", {"channel_id": "c1"}))


CHANNEL_PARTS = st.fixed_dictionaries({}, optional={
    name: st.none() | st.integers() | st.text(max_size=5) | st.fixed_dictionaries({
        "account_id": st.text(max_size=5), "public_key": st.text(max_size=9)})
    for name in ("receiver", "sender", "added_balance", "withdrawn_balance", "force_close_started")})


@settings(max_examples=100, deadline=None)
@given(answer=CHANNEL_PARTS | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2))
def test_what_is_no_channel_is_a_clear_error(answer: Any) -> None:
    world = World()
    world.rpc.script["query"] = [httpx.Response(200, json={"result": {"result": list(json.dumps(answer).encode())}})]
    with pytest.raises(ChainError, match="did not answer a channel|channel that can not be"):
        world.run(lambda chain: fetch_channel(chain, CONTRACT, "c1"))


@pytest.mark.parametrize("channel_id", ["", "x" * 65, 'a"b', "a\\", "\u00b5", "\ud800", "a\n"])
def test_what_can_be_no_channels_id_is_not_asked_for(world: World, channel_id: str) -> None:
    assert world.run(lambda chain: fetch_channel(chain, CONTRACT, channel_id)) is None
    assert world.rpc.requests == []


def test_configuration_errors_name_the_remedy(world: World) -> None:
    with pytest.raises(ConfigError, match=r"'tesnet' \(did you mean 'testnet'\?\)"):
        Chain("tesnet")
    for url in ("ftp://x", "rpc.testnet.near.org", "https://", "http://[", "http://x:99999/"):
        with pytest.raises(ConfigError, match="http or https"):
            Chain("testnet", url)
    for network in NETWORKS:
        Chain(network)

    async def plans(chain: Chain) -> None:
        with pytest.raises(ConfigError, match="not a NEAR account id"):
            chain.plan("Bad Name", "m", {})
        for deposit in (-1, 2**128):
            with pytest.raises(ConfigError, match="deposit"):
                chain.plan(CONTRACT, "m", {}, deposit=deposit)

    world.run(plans)

    async def keyless() -> None:
        async with world.chain() as chain:
            assert await chain.view(CONTRACT, "channel", {"channel_id": "c1"}) is None
            with pytest.raises(ConfigError, match="node init"):
                chain.plan(CONTRACT, "m", {})

    asyncio.run(keyless())
