"""What the tests of the contracts share: the compiled contracts in a local VM, and people with keys."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import base58
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.node.near_vm import Account, LocalVM, Outcome

FOLDER = Path(__file__).resolve().parents[2] / "contracts"
NEAR = 10**24
OWN_FUNDS = NEAR  # what the contract's account holds for its code and its own records
DAY_NS = 24 * 3600 * 10**9


def wasm(name: str) -> bytes:
    return (FOLDER / "wasm" / f"{name}.wasm").read_bytes()


def borsh_state(channel_id: str, spent: int) -> bytes:
    """The bytes of a state by hand: u32 length, UTF-8, u128, all little-endian."""
    name = channel_id.encode()
    return struct.pack("<I", len(name)) + name + struct.pack("<QQ", spent % 2**64, spent >> 64)


@dataclass(frozen=True)
class Person:
    """An account and its key, in the `cryptography` package; satisfies the node's `Signer` as well."""

    account_id: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public_key(self) -> str:
        return "ed25519:" + base58.b58encode(self.key.public_key().public_bytes_raw()).decode()

    @property
    def borsh_key(self) -> bytes:
        return b"\0" + self.key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data)

    def party(self) -> dict[str, str]:
        return {"account_id": self.account_id, "public_key": self.public_key}

    def state(self, channel_id: str, spent: int) -> dict[str, Any]:
        """A signed state as the contract takes it."""
        signature = base58.b58encode(self.sign(borsh_state(channel_id, spent))).decode()
        return {"state": {"channel_id": channel_id, "spent_balance": str(spent)}, "signature": f"ed25519:{signature}"}


class ChannelBench:
    """The channel contract, a sender, a receiver and a stranger with 1000 NEAR each."""

    contract = "channels.near"

    def __init__(self) -> None:
        self.vm = LocalVM()
        self.vm.deploy(self.contract, wasm("channel"), OWN_FUNDS)
        self.sender, self.receiver, self.stranger = Person("alice.near"), Person("node.near"), Person("mallory.near")
        for person in (self.sender, self.receiver, self.stranger):
            self.vm.accounts[person.account_id] = Account(1000 * NEAR)

    def call(self, method: str, args: dict[str, Any] | bytes, by: Person | None = None, deposit: int = 0) -> Outcome:
        person = by or self.sender
        return self.vm.call(self.contract, method, args, by=person.account_id, public_key=person.borsh_key,
                            deposit=deposit)

    def open(self, channel_id: str, deposit: int, **changed: Any) -> Outcome:
        args = {"channel_id": channel_id, "receiver": self.receiver.party(), "sender": self.sender.party()} | changed
        return self.call("open_channel", args, deposit=deposit)

    def channel(self, channel_id: str) -> Any:
        return self.vm.view(self.contract, "channel", {"channel_id": channel_id})

    def added(self, channel_id: str) -> int:
        return int(self.channel(channel_id)["added_balance"])

    def balance(self, person: Person) -> int:
        return self.vm.accounts[person.account_id].balance

    def held(self) -> int:
        """What the contract's account holds beyond its own funds."""
        return self.vm.accounts[self.contract].balance - OWN_FUNDS
