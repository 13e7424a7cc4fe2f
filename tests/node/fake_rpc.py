"""A NEAR RPC node in one process, in front of the local VM.

It reads transactions with a borsh decoder of its own and checks what the network would: the hash that was signed, the
key, the nonce, the block. Shapes of answers: https://docs.near.org/api/rpc
"""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import base58
import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.node.near_vm import ExecutionError, LocalVM, Outcome

URL = "https://rpc.example/secret-access-key"


class Borsh:
    """Reads values one after the other; all integers are little-endian."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        part = self.data[self.place:self.place + count]
        assert len(part) == count
        self.place += count
        return part

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def bytes(self) -> bytes:
        return self.take(struct.unpack("<I", self.take(4))[0])


@dataclass(frozen=True)
class Transaction:
    """A signed transaction of one function call."""

    signer: str
    public_key: bytes
    nonce: int
    receiver: str
    block_hash: bytes
    method: str
    args: bytes
    gas: int
    deposit: int
    digest: bytes

    @classmethod
    def decode(cls, data: bytes) -> "Transaction":
        """https://nomicon.io/RuntimeSpec/Transactions; the signature, 64 bytes behind the curve's 0, must be right."""
        borsh = Borsh(data)
        signer, curve, key = borsh.bytes().decode(), borsh.number(1), borsh.take(32)
        nonce, receiver, block = borsh.number(8), borsh.bytes().decode(), borsh.take(32)
        actions, kind = borsh.number(4), borsh.number(1)
        assert (curve, actions, kind) == (0, 1, 2), "ed25519, one action, FunctionCall"
        method, args, gas, deposit = borsh.bytes().decode(), borsh.bytes(), borsh.number(8), borsh.number(16)
        digest = hashlib.sha256(data[:borsh.place]).digest()
        assert borsh.number(1) == 0
        Ed25519PublicKey.from_public_bytes(key).verify(borsh.take(64), digest)
        assert borsh.place == len(data)
        return cls(signer, key, nonce, receiver, block, method, args, gas, deposit, digest)


def fault(name: str, info: Any = None, status: int = 200) -> httpx.Response:
    """An error as nearcore's RPC gives it."""
    error = {"name": "HANDLER_ERROR", "cause": {"name": name, "info": info}, "code": -32000, "message": "Server error",
             "data": info}
    return httpx.Response(status, json={"jsonrpc": "2.0", "id": "x", "error": error})


@dataclass
class FakeRpc:
    """`script` holds, by method, what is to happen to its next requests in place of the answer: a response, or an
    exception; None lets one through. `lost` methods are carried out, and then not answered."""

    vm: LocalVM
    chain_id: str = "testnet"
    keys: dict[tuple[str, bytes], int] = field(default_factory=dict)   # (account, key): nonce
    script: dict[str, list[httpx.Response | Exception | None]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    block_hash: bytes = bytes(range(32))

    def transport(self) -> httpx.AsyncBaseTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == URL
        body = json.loads(request.content)
        method, params = body["method"], body["params"]
        self.requests.append(method)
        if (queue := self.script.get(method)) and (planned := queue.pop(0)) is not None:
            if isinstance(planned, Exception):
                raise planned
            return planned
        result = getattr(self, f"_{method}")(params)
        if method in self.lost:
            raise httpx.ReadTimeout("lost")
        return result if isinstance(result, httpx.Response) else httpx.Response(
            200, json={"jsonrpc": "2.0", "id": body["id"], "result": result})

    def _status(self, _: Any) -> dict[str, Any]:
        return {"chain_id": self.chain_id, "version": {"version": "2.13.4"}}

    def _query(self, params: dict[str, Any]) -> dict[str, Any] | httpx.Response:
        assert params["finality"] == "final"
        if params["request_type"] == "view_access_key":
            key = base58.b58decode(params["public_key"].removeprefix("ed25519:"))
            if (params["account_id"], key) not in self.keys:
                return fault("UNKNOWN_ACCESS_KEY", {"public_key": params["public_key"]})
            return {"nonce": self.keys[params["account_id"], key], "permission": "FullAccess",
                    "block_hash": base58.b58encode(self.block_hash).decode(), "block_height": 7}
        args = base64.b64decode(params["args_base64"])
        try:
            value = json.dumps(self.vm.view(params["account_id"], params["method_name"], args))
        except ExecutionError as error:
            return fault("CONTRACT_EXECUTION_ERROR", {"vm_error": str(error), "block_height": 7})
        return {"result": list(value.encode()), "logs": [], "block_height": 7, "block_hash": "x"}

    def _send_tx(self, params: dict[str, Any]) -> dict[str, Any] | httpx.Response:
        assert params["wait_until"] == "FINAL"
        try:
            transaction = Transaction.decode(base64.b64decode(params["signed_tx_base64"]))
        except InvalidSignature:
            return fault("INVALID_TRANSACTION", {"InvalidTxError": "InvalidSignature"})
        key = (transaction.signer, transaction.public_key)
        if transaction.nonce <= self.keys[key]:
            return fault("INVALID_TRANSACTION", {"InvalidTxError": {"InvalidNonce": {"ak_nonce": self.keys[key]}}})
        assert transaction.block_hash == self.block_hash
        self.keys[key] = transaction.nonce
        self.transactions.append(transaction)
        outcome = self._execute(transaction)
        self.outcomes[base58.b58encode(transaction.digest).decode()] = outcome
        return outcome

    def _execute(self, transaction: Transaction) -> dict[str, Any]:
        gone = set()
        try:
            done = self.vm.call(transaction.receiver, transaction.method, transaction.args, by=transaction.signer,
                                public_key=b"\0" + transaction.public_key, deposit=transaction.deposit)
            status: dict[str, Any] = {"SuccessValue": base64.b64encode(done.value).decode()}
            gone = {account for account, _ in done.transfers if account not in self.vm.accounts}
        except ExecutionError as error:
            done = Outcome()
            status = {"Failure": {"ActionError": {"index": 0, "kind": {"FunctionCallError": {
                "ExecutionError": str(error)}}}}}
        receipts = [{"id": "r0", "outcome": {"status": status, "logs": done.logs}}]
        for account, _ in done.transfers:
            arrived: dict[str, Any] = {"SuccessValue": ""}
            if account in gone:
                kind = {"AccountDoesNotExist": {"account_id": account}}
                arrived = {"Failure": {"ActionError": {"index": 0, "kind": kind}}}
            receipts.append({"id": "r", "outcome": {"status": arrived, "logs": []}})
        return {"final_execution_status": "FINAL", "status": status, "receipts_outcome": receipts}

    def _tx(self, params: dict[str, Any]) -> dict[str, Any] | httpx.Response:
        return self.outcomes.get(params["tx_hash"]) or fault("UNKNOWN_TRANSACTION", {"requested": params["tx_hash"]})

