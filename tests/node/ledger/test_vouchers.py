"""Vouchers: their one form, whom they bind, and what is never taken."""

import base64
from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nearfield.node.errors import NodeError
from nearfield.node.vouchers import MAX_ID, check_voucher, parse_signed_state, parse_voucher
from tests.node.ledger.doubles import SENDER, Side, borsh_state, channel, near_key, node_identity, voucher

IDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=MAX_ID // 4)
BALANCES = st.integers(0, 2**128 - 1)


@given(IDS, BALANCES)
def test_what_a_client_packs_is_read(channel_id: str, spent: int) -> None:
    found = parse_voucher(voucher(spent, channel_id))
    assert (found.channel_id, found.spent_balance) == (channel_id, spent)
    assert found.state == borsh_state(channel_id, spent)
    SENDER.verify_key.verify(borsh_state(channel_id, spent), found.signature)
    assert parse_signed_state(found.signed_state) == found


def test_the_bytes_by_hand() -> None:
    signature = bytes(range(64))
    data = bytes.fromhex("02000000" + "6869" + "05" + "00" * 15 + "00") + signature
    found = parse_voucher(base64.b64encode(data).decode())
    assert (found.channel_id, found.spent_balance, found.signature) == ("hi", 5, signature)
    assert found.signed_state == {"state": {"channel_id": "hi", "spent_balance": "5"},
                                  "signature": "ed25519:" + base58.b58encode(signature).decode()}


@given(st.binary(max_size=400) | st.just(base64.b64decode(voucher(7))), st.data())
def test_bytes_are_a_voucher_in_one_form_or_refused(data: bytes, draw: Any) -> None:
    if data and draw.draw(st.booleans()):
        at = draw.draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1:]
    header = base64.b64encode(data).decode()
    try:
        found = parse_voucher(header)
    except NodeError as error:
        assert error.status == 400
    else:
        assert borsh_state(found.channel_id, found.spent_balance) + b"\0" + found.signature == data


@given(st.text(max_size=40))
def test_text_is_refused(header: str) -> None:
    with pytest.raises(NodeError) as caught:
        parse_voucher(header)
    assert caught.value.status == 400


@pytest.mark.parametrize(("header", "reason"), [
    (voucher(1).rstrip("=") + "=" * 3, "base64"), (voucher(1) + "\n", "base64"), ("A" * 5000, "too long"),
    (base64.b64encode(borsh_state("c", 1) + b"\1" + bytes(64)).decode(), "only ed25519"),
    (base64.b64encode(borsh_state("c", 1) + b"\0" + bytes(65)).decode(), "length"),
    (base64.b64encode(b"\1\0\0\0\xff" + bytes(17) + bytes(64)).decode(), "UTF-8"),
    (base64.b64encode(borsh_state("a\nb", 1) + b"\0" + bytes(64)).decode(), "printable"),
    (base64.b64encode(borsh_state("", 1) + b"\0" + bytes(64)).decode(), "channel id"),
    (base64.urlsafe_b64encode(borsh_state("\xff", 2**128 - 1) + b"\0" + b"\xff" * 64).decode(), "base64"),
])
def test_malformed_vouchers_say_why(header: str, reason: str) -> None:
    with pytest.raises(NodeError, match=reason) as caught:
        parse_voucher(header)
    assert caught.value.status == 400 and caught.value.message.isprintable()


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=60),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
                        st.sampled_from(["state", "channel_id", "spent_balance", "signature", "x"]), inner, max_size=3))


@given(st.dictionaries(st.sampled_from(["state", "signature"]), JSON))
def test_signed_states_in_json_are_read_or_refused(body: dict[str, Any]) -> None:
    with pytest.raises(NodeError) as caught:
        parse_signed_state(body)
    assert caught.value.status == 400


@pytest.mark.parametrize("balance", ["-1", "01", "1.0", "", "٣", str(2**128), 5, None])
def test_a_balance_in_json_is_decimal_text(balance: object) -> None:
    body = parse_voucher(voucher(1)).signed_state
    body["state"]["spent_balance"] = balance
    with pytest.raises(NodeError, match="spent_balance"):
        parse_signed_state(body)


def test_a_good_voucher_passes() -> None:
    for spent in (0, 1, 1000):
        check_voucher(parse_voucher(voucher(spent)), channel(), node_identity())


@pytest.mark.parametrize(("header", "changes", "status", "reason"), [
    (voucher(1001), {}, 402, "says 1001, and the channel holds 1000"),
    (voucher(1, key=SigningKey(bytes(32))), {}, 400, "not signed by the sender's key"),
    (voucher(1), {"sender": Side("alice.testnet", near_key(SigningKey(bytes(32))))}, 400, "not signed"),
    (voucher(1), {"sender": Side("alice.testnet", "secp256k1:abc")}, 400, "not signed"),
    (voucher(1), {"sender": Side("alice.testnet", "ed25519:" + "1" * 32)}, 400, "not signed"),     # of small order
    (voucher(1), {"receiver": Side("bob.testnet", node_identity().public_key)}, 402, "another receiver's"),
    # With a foreign receiver key somebody else could close the channel and give the deposit back.
    (voucher(1), {"receiver": Side("node.testnet", near_key(SENDER))}, 402, "another receiver's"),
    (voucher(1), {"force_close_started": 1}, 402, "being closed"),
])
def test_what_is_not_good_here(header: str, changes: dict[str, Any], status: int, reason: str) -> None:
    with pytest.raises(NodeError, match=reason) as caught:
        check_voucher(parse_voucher(header), channel(**changes), node_identity())
    assert caught.value.status == status


def test_a_channel_that_is_not_open() -> None:
    with pytest.raises(NodeError, match="not open"):
        check_voucher(parse_voucher(voucher(1)), None, node_identity())


def test_a_signature_is_of_one_channel_and_one_balance() -> None:
    good = parse_voucher(voucher(5))
    for channel_id, spent in (("channel-2", 5), ("channel-1", 6)):
        data = borsh_state(channel_id, spent) + b"\0" + good.signature
        with pytest.raises(NodeError, match="not signed"):
            check_voucher(parse_voucher(base64.b64encode(data).decode()), channel(), node_identity())
