"""A voucher of a payment channel, as pay-per-prompt's clients send it: `X-Payments-Signature`, base64 of

    u32 LE length, channel id in UTF-8, u128 LE spent balance   the state, in borsh
    00                                                          the kind of key: ed25519
    64 bytes                                                    the sender's signature of the state, not hashed before

The balance is cumulative: the last voucher is worth all that the channel has paid. What is signed names neither the
contract nor the chain, so a sender must not use one key for two of them; the format leaves no room for more.
Source: nearai/pay-per-prompt, nearpc/nearpc/__init__.py; nearai/payment-channels, contract/src/lib.rs.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from nearfield.node.errors import IdentityError, NodeError
from nearfield.node.keys import decode_key, encode_key

HEADER = "x-payments-signature"
MAX_ID = 256            # bytes
MAX_BALANCE = 2**128 - 1
_TAIL = 16 + 1 + 64     # balance, kind of key, signature
_AMOUNT = re.compile(r"0|[1-9][0-9]{0,38}")


class Party(Protocol):
    """One side of a channel: its account, and the key (`ed25519:<base58>`) that signs for it."""

    @property
    def account_id(self) -> str: ...

    @property
    def public_key(self) -> str: ...


class ChannelView(Protocol):
    """A channel as it stands on the chain (channels.Channel). Balances in the token's atomic unit."""

    @property
    def receiver(self) -> Party: ...

    @property
    def sender(self) -> Party: ...

    @property
    def added_balance(self) -> int: ...

    @property
    def withdrawn_balance(self) -> int: ...

    @property
    def force_close_started(self) -> int | None: ...


@dataclass(frozen=True)
class Voucher:
    """The sender's word that the channel has paid `spent_balance` in all; `signature` has 64 bytes."""

    channel_id: str
    spent_balance: int
    signature: bytes

    @property
    def state(self) -> bytes:
        """The bytes that are signed."""
        return encode_state(self.channel_id, self.spent_balance)

    @property
    def signed_state(self) -> dict[str, Any]:
        """What the contract's `withdraw` takes as its argument `state`."""
        return {"state": {"channel_id": self.channel_id, "spent_balance": str(self.spent_balance)},
                "signature": encode_key("ed25519", self.signature)}


def encode_state(channel_id: str, spent_balance: int) -> bytes:
    """A channel's state in borsh."""
    name = channel_id.encode()
    return len(name).to_bytes(4, "little") + name + spent_balance.to_bytes(16, "little")


def parse_voucher(header: str) -> Voucher:
    """Read the header's value, whose signature is not checked here. Raises NodeError (400)."""
    if len(header) > (MAX_ID + _TAIL + 4) * 4 // 3 + 4:
        raise _malformed("it is too long")
    try:
        data = base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("it is not base64") from None
    size = int.from_bytes(data[:4], "little")
    # One voucher, one text: spare bits of the last base64 digit, too, are as an encoder leaves them.
    if len(data) != 4 + size + _TAIL or base64.b64encode(data).decode() != header:
        raise _malformed("it has not the length that its channel id needs, or is not in its only form")
    if data[4 + size + 16] != 0:
        raise _malformed("only ed25519 signatures are taken")
    try:
        channel_id = data[4:4 + size].decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("the channel id is not UTF-8") from None
    check_id(channel_id)
    return Voucher(channel_id, int.from_bytes(data[4 + size:4 + size + 16], "little"), data[-64:])


def parse_signed_state(body: Mapping[str, Any]) -> Voucher:
    """Read a signed state in JSON, as `POST /pc/validate` gets it. Raises NodeError (400)."""
    state = body.get("state")
    if not isinstance(state, Mapping):
        raise NodeError(400, "a signed state has a state, {channel_id, spent_balance}, and a signature")
    channel_id, balance = state.get("channel_id"), state.get("spent_balance")
    if not isinstance(channel_id, str):
        raise NodeError(400, "state.channel_id must be text")
    if not isinstance(balance, str) or not _AMOUNT.fullmatch(balance) or int(balance) > MAX_BALANCE:
        raise NodeError(400, "state.spent_balance must be a whole number below 2^128, as text")
    try:
        signature = decode_key("ed25519", body.get("signature"))
    except IdentityError:
        signature = b""
    if len(signature) != 64:
        raise NodeError(400, "signature must be ed25519:<base58> of 64 bytes")
    check_id(channel_id)
    return Voucher(channel_id, int(balance), signature)


def check_id(channel_id: str) -> None:
    """Raises NodeError (400) for what is no channel's id."""
    if not channel_id.isprintable() or not 0 < len(channel_id.encode()) <= MAX_ID:
        raise NodeError(400, f"a channel id has 1 to {MAX_ID} bytes of printable text")


def check_voucher(voucher: Voucher, channel: ChannelView | None, receiver: Party) -> ChannelView:
    """The channel, where `voucher` binds its sender, and the contract will pay it to `receiver`.

    Raises:
        NodeError: as `check_parties` does; 402, the channel holds less.
    """
    channel = check_parties(voucher, channel, receiver)
    if voucher.spent_balance > channel.added_balance:
        raise NodeError(402, f"the voucher says {voucher.spent_balance}, and the channel holds "
                             f"{channel.added_balance}; top it up")
    return channel


def check_parties(voucher: Voucher, channel: ChannelView | None, receiver: Party) -> ChannelView:
    """The channel, where it pays `receiver` and its sender has signed `voucher`.

    Raises:
        NodeError: 400, not signed by the channel's sender; 402, the channel does not exist, is another's, or is being
            closed.
    """
    if channel is None:
        raise NodeError(402, "the payment channel is not open; open it first, then send vouchers")
    # The receiver's key can close a channel and give its deposit back: the account alone is not enough.
    if (channel.receiver.account_id, channel.receiver.public_key) != (receiver.account_id, receiver.public_key):
        raise NodeError(402, f"the payment channel is another receiver's; open one to {receiver.account_id} with the "
                             f"key {receiver.public_key}")
    if channel.force_close_started is not None:
        raise NodeError(402, "the payment channel is being closed by its sender; open a new one")
    try:
        VerifyKey(decode_key("ed25519", channel.sender.public_key)).verify(voucher.state, voucher.signature)
    except (IdentityError, BadSignatureError, ValueError):
        raise NodeError(400, "the voucher is not signed by the sender's key of its payment channel") from None
    return channel


def _malformed(reason: str) -> NodeError:
    return NodeError(400, f"X-Payments-Signature is no voucher: {reason}")
