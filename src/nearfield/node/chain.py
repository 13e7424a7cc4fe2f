"""Views and signed calls of contracts on NEAR.

A call is planned first: `Plan` is all that will be signed but for two numbers that the chain gives at the last moment
(the key's nonce, a recent block's hash), and what a dry run prints. py-near encodes and hashes the transaction; the key
stays in the identity, which signs the hash.
"""

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self

import base58
import httpx
import orjson
from py_near_primitives import FunctionCallAction, SignedTransaction, Transaction  # type: ignore[import-untyped]

from nearfield.core.errors import ConfigError, nearest
from nearfield.node.errors import IdentityError
from nearfield.node.keys import check_account, decode_key
from nearfield.node.rpc import ChainError, Rpc, clean, reason

# The public endpoints of NEAR's documentation; a busy node names one of its own.
NETWORKS: Mapping[str, str] = MappingProxyType({
    "mainnet": "https://rpc.mainnet.near.org",
    "testnet": "https://rpc.testnet.near.org",
})
TERAGAS = 10**12
DEFAULT_GAS = 40 * TERAGAS   # what is not used comes back
NEAR = 10**24                # yocto-NEAR
STORAGE_PRICE = 10**19       # yocto-NEAR for a byte that a contract stores
_LOOKUPS = 5                 # of a transaction whose outcome did not come back


class UnknownOutcomeError(ChainError):
    """A call was sent, and what became of it is not known; the message has the hash to look it up by."""

    def __init__(self, transaction: str, why: str) -> None:
        super().__init__(f"transaction {transaction} was sent, but its outcome is not known ({why}); look it up before "
                         "you send again")


class Signer(Protocol):
    """An account's key: `Identity` is one. `public_key` is `ed25519:<base58>`; a signature has 64 bytes."""

    @property
    def account_id(self) -> str: ...
    @property
    def public_key(self) -> str: ...
    def sign(self, data: bytes) -> bytes: ...


def near(yocto: int) -> str:
    """yocto-NEAR as NEAR, exactly: 1500000000000000000000000 is 1.5."""
    whole, rest = divmod(yocto, NEAR)
    return f"{whole}.{rest:024d}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Plan:
    """A call as it would be signed: nothing secret, nothing sent. Amounts in yocto-NEAR, gas in gas units."""

    network: str
    signer_id: str
    public_key: str
    receiver_id: str
    method: str
    args: bytes
    deposit: int
    gas: int

    def __str__(self) -> str:
        return "\n".join((
            f"network     {self.network}",
            f"signer      {self.signer_id}",
            f"public key  {self.public_key}",
            f"receiver    {self.receiver_id}",
            f"method      {self.method}",
            f"arguments   {self.args.decode()}",
            f"deposit     {near(self.deposit)} NEAR ({self.deposit} yoctoNEAR)",
            f"gas         {self.gas // TERAGAS} Tgas",
        ))

    def as_json(self) -> dict[str, Any]:
        """The same for a program; amounts are strings, as they exceed 53 bits."""
        return {"network": self.network, "signer_id": self.signer_id, "public_key": self.public_key,
                "receiver_id": self.receiver_id, "method": self.method, "args": orjson.loads(self.args),
                "deposit": str(self.deposit), "gas": str(self.gas)}


@dataclass(frozen=True)
class Executed:
    """A call that is final: the transaction's hash in base58, and the bytes that the method returned."""

    transaction: str
    value: bytes


class Chain:
    """One network through one RPC endpoint, as one signer or, without, for views only. Use it in `async with`."""

    def __init__(self, network: str, rpc_url: str | None = None, signer: Signer | None = None, *,
                 timeout: float = 60.0, retry_seconds: float = 3.0,
                 transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Open nothing yet.

        Args:
            network: The chain's id; a call is signed only if the RPC endpoint says the same.
            rpc_url: By default the public one of mainnet or testnet.
            timeout: Of a request, in seconds.
            retry_seconds: Between lookups of a transaction whose outcome did not come back.
            transport: In place of the network.

        Raises:
            ConfigError: the network has no default endpoint, or the URL is none.
        """
        url = rpc_url or NETWORKS.get(network)
        if url is None:
            known = ", ".join(NETWORKS)
            raise ConfigError(f"no RPC endpoint is known for the network {network!r}{nearest(network, NETWORKS)}; "
                              f"known: {known}; for others name the endpoint too")
        self.network = network
        self._rpc = Rpc(url, timeout=timeout, transport=transport)
        self._signer, self._retry_seconds = signer, retry_seconds
        self._sending = asyncio.Lock()  # a nonce is used once

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self._rpc.aclose()

    async def view(self, contract: str, method: str, args: Mapping[str, Any]) -> Any:
        """The JSON that a view method answers, as of the last final block.

        Raises:
            ChainError: the contract panicked, is not there, or answered no JSON; the RPC failed.
        """
        result = await self._rpc.request("query", {
            "request_type": "call_function", "finality": "final", "account_id": contract, "method_name": method,
            "args_base64": base64.b64encode(orjson.dumps(dict(args))).decode()})
        try:
            return orjson.loads(bytes(result["result"]))
        except (KeyError, TypeError, ValueError):
            raise ChainError(f"{method} of {contract} did not answer JSON; is it the right contract?") from None

    def plan(self, contract: str, method: str, args: Mapping[str, Any], *, deposit: int = 0,
             gas: int = DEFAULT_GAS) -> Plan:
        """The call as `send` would sign it; `str(plan)` is the dry run.

        Raises:
            ConfigError: there is no signer, `contract` is not an account id, or the deposit is not an amount.
        """
        if self._signer is None:
            raise ConfigError("a call needs the node's keys; `nearfield node init` makes them")
        if not 0 <= deposit < 2**128:
            raise ConfigError("the deposit must be from 0 to 2^128 - 1 yoctoNEAR")
        try:
            check_account(contract)
        except IdentityError as error:
            raise ConfigError(f"the contract {contract!r} is {error}") from None
        return Plan(self.network, self._signer.account_id, self._signer.public_key, contract, method,
                    orjson.dumps(dict(args)), deposit, gas)

    async def send(self, plan: Plan) -> Executed:
        """Sign the plan, send it, and wait until it and the transfers that it caused are final.

        Raises:
            ChainError: nothing was sent, or it was and failed: the message says which.
            UnknownOutcomeError: it was sent, and what became of it is not known.
        """
        signer = self._signer
        if signer is None or (self.network, signer.account_id, signer.public_key) != (
                plan.network, plan.signer_id, plan.public_key):
            raise ChainError("the plan was made for another network or key; nothing was sent")
        async with self._sending:
            signed, transaction = await self._sign(signer, plan)
            outcome = await self._deliver(signed, transaction, plan.signer_id)
        return Executed(transaction, _value(outcome, transaction, plan))

    async def _sign(self, signer: Signer, plan: Plan) -> tuple[bytes, str]:
        """The signed transaction in borsh, and its hash in base58."""
        found = clean(str((await self._rpc.request("status", [])).get("chain_id")))
        if found != plan.network:
            raise ChainError(f"{self._rpc.place} serves {found!r}, the plan is for {plan.network!r}; nothing was sent")
        key = await self._rpc.request("query", {
            "request_type": "view_access_key", "finality": "final", "account_id": plan.signer_id,
            "public_key": plan.public_key})
        nonce, block = key.get("nonce"), _block_hash(key.get("block_hash"))
        if not isinstance(nonce, int) or not 0 <= nonce < 2**64 - 1 or block is None:
            raise ChainError(f"{self._rpc.place} gave no nonce and block hash for the key; nothing was sent")
        action = FunctionCallAction(plan.method, plan.args, plan.gas, plan.deposit)
        public_key = decode_key("ed25519", plan.public_key)
        transaction = Transaction(plan.signer_id, public_key, nonce + 1, plan.receiver_id, block, [action])
        digest = hashlib.sha256(bytes(transaction.serialize())).digest()
        signed = SignedTransaction(signer.sign(digest), transaction)
        return bytes(signed.serialize()), base58.b58encode(digest).decode()

    async def _deliver(self, signed: bytes, transaction: str, sender: str) -> dict[str, Any]:
        """The final outcome. The transaction is sent once; unless it was refused, it is looked up by its hash."""
        try:
            return await self._rpc.request("send_tx", {
                "signed_tx_base64": base64.b64encode(signed).decode(), "wait_until": "FINAL"})
        except ChainError as error:
            if error.cause == "INVALID_TRANSACTION":
                raise
            why = str(error)
        for _ in range(_LOOKUPS):
            await asyncio.sleep(self._retry_seconds)
            with suppress(ChainError):
                return await self._rpc.request("tx", {
                    "tx_hash": transaction, "sender_account_id": sender, "wait_until": "FINAL"})
        raise UnknownOutcomeError(transaction, why)


def _block_hash(text: Any) -> bytes | None:
    try:
        found = base58.b58decode(text) if isinstance(text, str) and len(text) <= 44 else b""
    except ValueError:
        return None
    return found if len(found) == 32 else None


def _value(outcome: Mapping[str, Any], transaction: str, plan: Plan) -> bytes:
    """What the method returned, where it and every receipt that it caused succeeded."""
    status = outcome.get("status")
    receipts = outcome.get("receipts_outcome")
    if not isinstance(status, dict) or not isinstance(receipts, list):
        raise UnknownOutcomeError(transaction, "the RPC did not tell it")
    if "Failure" in status:
        raise ChainError(f"{plan.method} of {plan.receiver_id} failed: {reason(status['Failure'])} "
                         f"(transaction {transaction})")
    for receipt in receipts:
        inner = receipt.get("outcome") if isinstance(receipt, dict) else None
        result = inner.get("status") if isinstance(inner, dict) else None
        if isinstance(result, dict) and "Failure" in result:
            raise ChainError(f"{plan.method} of {plan.receiver_id} was executed, but a transfer that it caused failed: "
                             f"{reason(result['Failure'])} (transaction {transaction})")
    try:
        return base64.b64decode(status["SuccessValue"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise UnknownOutcomeError(transaction, "the RPC did not tell it") from None
