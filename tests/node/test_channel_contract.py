"""The payment channel in the local VM: its whole life, and each way to take what is not one's own."""

import json
from typing import Any

import base58
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.contracts import DAY_NS, NEAR, ChannelBench, Person, borsh_state
from tests.node.near_vm import STORAGE_PRICE, ExecutionError


@pytest.fixture
def bench() -> ChannelBench:
    bench = ChannelBench()
    bench.open("c1", 5 * NEAR)
    return bench


def test_whole_life(bench: ChannelBench) -> None:
    opened = bench.added("c1")
    assert 4.99 * NEAR < opened < 5 * NEAR, "the deposit less the price of the storage"
    bench.call("topup", {"channel_id": "c1"}, deposit=NEAR)
    assert bench.added("c1") == opened + NEAR

    before = bench.balance(bench.receiver)
    assert bench.call("withdraw", {"state": bench.sender.state("c1", 2 * NEAR)}, by=bench.receiver).transfers \
        == [("node.near", 2 * NEAR)]
    assert bench.call("withdraw", {"state": bench.sender.state("c1", 3 * NEAR)}, by=bench.receiver).transfers \
        == [("node.near", NEAR)]
    assert bench.balance(bench.receiver) == before + 3 * NEAR
    assert bench.channel("c1") == {
        "receiver": bench.receiver.party(), "sender": bench.sender.party(), "added_balance": str(opened + NEAR),
        "withdrawn_balance": str(3 * NEAR), "force_close_started": None}

    closed = bench.call("close", {"state": bench.receiver.state("c1", 0)})
    [(account, amount)] = closed.transfers
    assert account == "alice.near" and opened - 2 * NEAR < amount < 3 * NEAR, "the rest, and the storage that is freed"
    assert bench.channel("c1") is None
    assert bench.held() == (len("cc1") + 40) * STORAGE_PRICE, "the record that keeps the id used is paid for"


def test_withdraw_and_close(bench: ChannelBench) -> None:
    added = bench.added("c1")
    args = {"state": bench.sender.state("c1", NEAR), "close": bench.receiver.state("c1", 0)}
    transfers = bench.call("withdraw_and_close", args, by=bench.receiver).transfers
    assert transfers[0] == ("node.near", NEAR)
    assert transfers[1][0] == "alice.near" and transfers[1][1] > added - NEAR
    assert bench.channel("c1") is None


def refused(bench: ChannelBench, message: str, method: str, args: dict[str, Any], *, by: Person | None = None,
            deposit: int = 0) -> None:
    before = {name: account.balance for name, account in bench.vm.accounts.items()}
    with pytest.raises(ExecutionError, match=message):
        bench.call(method, args, by=by, deposit=deposit)
    assert {name: account.balance for name, account in bench.vm.accounts.items()} == before


def test_over_spend_is_refused_though_others_have_deposited(bench: ChannelBench) -> None:
    bench.open("c2", 100 * NEAR)
    added = bench.added("c1")
    refused(bench, "Over-spent", "withdraw", {"state": bench.sender.state("c1", added + 1)})
    args = {"state": bench.sender.state("c1", added + 1), "close": bench.receiver.state("c1", 0)}
    refused(bench, "Over-spent", "withdraw_and_close", args)
    bench.call("withdraw", {"state": bench.sender.state("c1", added)})
    refused(bench, "not newer", "withdraw", {"state": bench.sender.state("c1", added)})


def test_only_the_senders_signature_withdraws_and_only_the_receivers_closes(bench: ChannelBench) -> None:
    for person in (bench.receiver, bench.stranger):
        refused(bench, "not signed by the sender", "withdraw", {"state": person.state("c1", NEAR)})
    for person in (bench.sender, bench.stranger):
        refused(bench, "not signed by the receiver", "close", {"state": person.state("c1", 0)})
    refused(bench, "spent_balance 0", "close", {"state": bench.receiver.state("c1", 1)})


def test_a_signature_holds_for_one_channel_and_one_amount(bench: ChannelBench) -> None:
    bench.open("c2", 5 * NEAR)
    signed = bench.sender.state("c1", NEAR)
    for name, spent in (("c2", NEAR), ("c1", NEAR + 1)):
        changed = {**signed, "state": {"channel_id": name, "spent_balance": str(spent)}}
        refused(bench, "not signed by the sender", "withdraw", {"state": changed})
    args = {"state": bench.sender.state("c1", NEAR), "close": bench.receiver.state("c2", 0)}
    refused(bench, "one channel", "withdraw_and_close", args)


def test_replayed_and_older_states_are_refused(bench: ChannelBench) -> None:
    older, newer = bench.sender.state("c1", NEAR), bench.sender.state("c1", 2 * NEAR)
    bench.call("withdraw", {"state": newer})
    for state in (older, newer, bench.sender.state("c1", 0)):
        refused(bench, "not newer", "withdraw", {"state": state})


def test_closed_is_for_ever(bench: ChannelBench) -> None:
    close = {"state": bench.receiver.state("c1", 0)}
    bench.call("close", close)
    for method, args in (("close", close), ("withdraw", {"state": bench.sender.state("c1", NEAR)}),
                         ("topup", {"channel_id": "c1"}), ("force_close_start", {"channel_id": "c1"}),
                         ("force_close_finish", {"channel_id": "c1"})):
        refused(bench, "closed", method, args, deposit=NEAR if method == "topup" else 0)
    with pytest.raises(ExecutionError, match="is or was in use"):
        bench.open("c1", 5 * NEAR)


def test_force_close_waits_seven_days_in_which_the_receiver_collects(bench: ChannelBench) -> None:
    name = {"channel_id": "c1"}
    refused(bench, "not closing", "force_close_finish", name)
    for person in (bench.receiver, bench.stranger):
        refused(bench, "Only the sender", "force_close_start", name, by=person)
    bench.call("force_close_start", name)
    assert bench.channel("c1")["force_close_started"] == bench.vm.now
    refused(bench, "already closing", "force_close_start", name)
    refused(bench, "is closing", "topup", name, deposit=NEAR)
    bench.vm.now += 7 * DAY_NS - 1
    refused(bench, "7 days", "force_close_finish", name)
    bench.call("withdraw", {"state": bench.sender.state("c1", NEAR)}, by=bench.receiver)
    bench.vm.now += 1
    rest = bench.added("c1") - NEAR
    [(account, amount)] = bench.call("force_close_finish", name, by=bench.stranger).transfers
    assert account == "alice.near" and rest < amount < rest + NEAR // 100
    refused(bench, "closed", "force_close_finish", name)


def test_the_deposit_must_cover_the_storage() -> None:
    bench = ChannelBench()
    with pytest.raises(ExecutionError, match="at least") as error:
        bench.open("c1", 0)
    cost = int(str(error.value).split("at least ")[1].split(" ")[0])
    with pytest.raises(ExecutionError, match="at least"):
        bench.open("c1", cost - 1)
    bench.open("c1", cost)
    assert bench.added("c1") == 0
    assert bench.held() == cost


def test_who_may_open_what() -> None:
    bench = ChannelBench()
    for changed, message in (
            ({"sender": {"account_id": "alice.near", "public_key": bench.receiver.public_key}}, "different keys"),
            ({"receiver": bench.receiver.party() | {"account_id": "Node.near"}}, "not a NEAR account id"),
            ({"receiver": {"account_id": "node.near"}}, "public_key is missing"),
            ({"receiver": {"account_id": "node.near", "public_key": "secp256k1:11"}}, "must begin with ed25519:"),
            ({"receiver": {"account_id": "node.near", "public_key": "ed25519:1111"}}, "must have 32 bytes"),
            ({"receiver": {"account_id": "node.near", "public_key": "ed25519:" + "z" * 64}}, "too long"),
            ({"receiver": {"account_id": "node.near", "public_key": "ed25519:0OIl"}}, "not base 58"),
            ({"owner": "mallory.near"}, "owner is not known here")):
        with pytest.raises(ExecutionError, match=message):
            bench.open("c1", NEAR, **changed)
    with pytest.raises(ExecutionError, match="exceeds 64"):
        bench.open("c" * 65, NEAR)
    with pytest.raises(ExecutionError, match="is empty"):
        bench.open("", NEAR)
    bench.open("c" * 64, NEAR)


def test_nothing_but_opening_and_topping_up_takes_a_deposit(bench: ChannelBench) -> None:
    for method in ("withdraw", "close", "withdraw_and_close", "force_close_start", "force_close_finish"):
        refused(bench, "takes no deposit", method, {}, deposit=1)
    refused(bench, "deposit is required", "topup", {"channel_id": "c1"})


def test_amounts_end_at_128_bits(bench: ChannelBench) -> None:
    most = 2**128 - 1
    bench.vm.accounts["alice.near"].balance = 2**130
    added = bench.added("c1")
    refused(bench, "exceeds 128 bits", "topup", {"channel_id": "c1"}, deposit=most - added + 1)
    bench.call("topup", {"channel_id": "c1"}, deposit=most - added)
    assert bench.added("c1") == most
    for spent in (str(most + 1), "9" * 60, "-1", "1e3", "", "01", " 1"):
        state = {"state": {"channel_id": "c1", "spent_balance": spent}, "signature": "ed25519:" + "1" * 64}
        refused(bench, "128 bits|Not a decimal number", "withdraw", {"state": state})
    assert bench.call("withdraw", {"state": bench.sender.state("c1", most)}).transfers == [("node.near", most)]


def test_a_payment_to_an_account_that_is_gone_stays_in_the_contract(bench: ChannelBench) -> None:
    """As documented: it is the receiver's loss, not another channel's."""
    del bench.vm.accounts["node.near"]
    held = bench.held()
    bench.call("withdraw", {"state": bench.sender.state("c1", NEAR)})
    assert bench.held() == held
    refused(bench, "not newer", "withdraw", {"state": bench.sender.state("c1", NEAR)})


@settings(max_examples=60, deadline=None)
@given(key=st.binary(min_size=32, max_size=32), zeros=st.integers(0, 32))
def test_keys_of_any_bytes_come_back_as_they_are(key: bytes, zeros: int) -> None:
    bench = ChannelBench()
    key = bytes(zeros) + key[zeros:]
    party = {"account_id": "node.near", "public_key": "ed25519:" + base58.b58encode(key).decode()}
    bench.open("c1", NEAR, receiver=party)
    assert bench.channel("c1")["receiver"] == party


METHODS = ("open_channel", "topup", "withdraw", "close", "withdraw_and_close", "force_close_start",
           "force_close_finish", "channel")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(("channel_id", "receiver", "sender", "state", "signature", "spent_balance", "close",
                         "account_id", "public_key", "x")), inner, max_size=4), max_leaves=12)
ARGUMENTS = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())


@settings(max_examples=300, deadline=None)
@given(method=st.sampled_from(METHODS), args=ARGUMENTS)
def test_any_arguments_are_answered_by_a_message(method: str, args: bytes) -> None:
    bench = ChannelBench()
    try:
        bench.call(method, args)
    except ExecutionError as error:
        assert str(error).startswith("Smart contract panicked: ") and "Internal error" not in str(error)
    else:
        assert method == "channel", "nothing random opens, pays or closes"


def test_the_signed_bytes_are_those_of_pay_per_prompt() -> None:
    assert borsh_state("ab", 258 << 64) == bytes.fromhex("02000000" "6162" "0000000000000000" "0201000000000000")
