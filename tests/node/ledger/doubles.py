"""What tests of the ledger and of payment share: a clock, keys, channels and vouchers written by hand."""

import base64
import struct
from dataclasses import dataclass, replace

import base58
from coincurve import PrivateKey
from nacl.signing import SigningKey

from nearfield.node.identity import Identity
from nearfield.node.usage import Usage

SENDER = SigningKey(b"the sender of a payment channel!")


@dataclass
class Clock:
    """A clock that stands until it is set."""

    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Side:
    """One side of a channel."""

    account_id: str
    public_key: str


@dataclass(frozen=True)
class Channel:
    """A channel as the chain says it is."""

    receiver: Side
    sender: Side
    added_balance: int = 1000
    withdrawn_balance: int = 0
    force_close_started: int | None = None


def node_identity() -> Identity:
    """Keys that are the same in every run."""
    return Identity("node.testnet", SigningKey(bytes(range(32))), PrivateKey(bytes(range(1, 33))))


def near_key(key: SigningKey) -> str:
    return "ed25519:" + base58.b58encode(bytes(key.verify_key)).decode()


def channel(**changes: object) -> Channel:
    """An open channel from SENDER to the node."""
    node = node_identity()
    plain = Channel(Side(node.account_id, node.public_key), Side("alice.testnet", near_key(SENDER)))
    return replace(plain, **changes)  # type: ignore[arg-type]


def borsh_state(channel_id: str, spent: int) -> bytes:
    """As nearai/pay-per-prompt packs it: the two halves of the balance one after the other."""
    name = channel_id.encode()
    return struct.pack("<I", len(name)) + name + struct.pack("<QQ", spent & (2**64 - 1), spent >> 64)


def voucher(spent: int, channel_id: str = "channel-1", key: SigningKey = SENDER) -> str:
    """The value of X-Payments-Signature."""
    state = borsh_state(channel_id, spent)
    return base64.b64encode(state + b"\x00" + key.sign(state).signature).decode()


def usage(response_id: str, prompt: int = 10, completion: int = 5, cached: int = 0) -> Usage:
    return Usage(response_id, "org/model", prompt, cached, completion)
