"""A local VM: contracts under wasmtime with NEAR's host functions in Python.

It keeps NEAR's rules on registers, views, balances, storage and promises that transfer; it is not nearcore. Gas is not
counted, a transfer arrives at once, and a contract calls no other.
Signatures and meanings of the host functions, and the prices of storage: NEAR's protocol specification, and nearcore's
runtime (logic.rs).
"""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import wasmtime
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

STORAGE_PRICE = 10**19     # yocto-NEAR that a byte locks
RECORD_BYTES = 40          # what a record takes beside its key and its value
ACCOUNT_BYTES = 100
NO_REGISTER = 2**64 - 1


class ExecutionError(Exception):
    """The call failed and changed nothing; the message is what a node of the network would report."""


@dataclass
class Account:
    balance: int = 0
    code: bytes = b""
    storage: dict[bytes, bytes] = field(default_factory=dict)

    def usage(self) -> int:
        """Bytes of storage."""
        records = sum(len(key) + len(value) + RECORD_BYTES for key, value in self.storage.items())
        return ACCOUNT_BYTES + len(self.code) + records


@dataclass(frozen=True)
class Call:
    """Who calls what; `public_key` is in borsh: the curve's byte, then the key."""

    contract: str
    method: str
    args: bytes
    signer: str = ""
    public_key: bytes = bytes(33)
    predecessor: str = ""
    deposit: int = 0
    view: bool = False


@dataclass
class Outcome:
    """What a call did: the bytes that it returned, its log, and its transfers as (account, yocto-NEAR)."""

    value: bytes = b""
    logs: list[str] = field(default_factory=list)
    transfers: list[tuple[str, int]] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.value)


@cache
def engine() -> wasmtime.Engine:
    return wasmtime.Engine()


@cache
def compiled(code: bytes) -> wasmtime.Module:
    return wasmtime.Module(engine(), code)


class LocalVM:
    """Accounts and their contracts. `now` is the time of the next block, in nanoseconds."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.now = 1_700_000_000_000_000_000
        self._running: HostFunctions | None = None
        self._linker = wasmtime.Linker(engine())  # once: making it takes longer than a call
        for name, (params, results) in SIGNATURES.items():
            kind = wasmtime.FuncType([wasmtime.ValType.i64()] * params, [wasmtime.ValType.i64()] * results)
            self._linker.define_func("env", name, kind, self._host_function(name))

    def _host_function(self, name: str) -> Callable[..., int | None]:
        def function(*args: int) -> int | None:
            assert self._running is not None
            return self._running.host_call(name, *(value & (2**64 - 1) for value in args))

        return function

    def deploy(self, account: str, wasm: bytes, balance: int) -> None:
        self.accounts[account] = Account(balance, wasm)

    def call(self, contract: str, method: str, args: dict[str, Any] | bytes, *, by: str, deposit: int = 0,
             signer: str | None = None, public_key: bytes = bytes(33)) -> Outcome:
        """Run a method that may change state; raise ExecutionError, with everything undone, where it fails."""
        data = args if isinstance(args, bytes) else json.dumps(args).encode()
        before = {name: copy.deepcopy(self.accounts[name]) for name in self.accounts}
        try:
            return self._run(Call(contract, method, data, signer or by, public_key, by, deposit))
        except ExecutionError:
            self.accounts = before
            raise

    def view(self, contract: str, method: str, args: dict[str, Any] | bytes) -> Any:
        """The JSON that a view answers."""
        data = args if isinstance(args, bytes) else json.dumps(args).encode()
        return self._run(Call(contract, method, data, view=True)).json()

    def _run(self, call: Call) -> Outcome:
        account = self.accounts.get(call.contract)
        if account is None or not account.code:
            raise ExecutionError(f"no contract at {call.contract}")
        if not call.view:
            payer = self.accounts[call.predecessor]
            if payer.balance < call.deposit:
                raise ExecutionError("NotEnoughBalance")
            payer.balance -= call.deposit
            account.balance += call.deposit
        self._running = host = HostFunctions(account, call, self.now)
        host.run(self._linker, compiled(account.code))
        if account.balance < account.usage() * STORAGE_PRICE:
            raise ExecutionError("LackBalanceForState")
        for name, amount in host.outcome.transfers:
            # Where the account does not exist, the network sends the amount back to the contract.
            self.accounts.get(name, account).balance += amount
        return host.outcome


class HostFunctions:
    """One call: its memory, its registers, and the functions of module "env"."""

    def __init__(self, account: Account, call: Call, now: int) -> None:
        self._account, self._call, self._now = account, call, now
        self._registers: dict[int, bytes] = {}
        self._promises: list[str] = []
        self.outcome = Outcome()

    def run(self, linker: wasmtime.Linker, module: wasmtime.Module) -> None:
        self._store = wasmtime.Store(engine())
        try:
            exports = linker.instantiate(self._store, module).exports(self._store)
            memory, method = exports["memory"], exports.get(self._call.method)
            assert isinstance(memory, wasmtime.Memory)
            self._memory = memory
            if not isinstance(method, wasmtime.Func):
                raise ExecutionError("MethodNotFound")
            method(self._store)
        except wasmtime.WasmtimeError as error:
            raise ExecutionError(f"the contract does not link: {error}") from error
        except wasmtime.Trap as error:
            raise ExecutionError(f"trap: {error.message}") from error

    def host_call(self, name: str, *args: int) -> int | None:
        if self._call.view and name in PROHIBITED_IN_VIEW:
            raise ExecutionError(f"ProhibitedInView: {name}")
        result: int | None = getattr(self, name)(*args)
        return result

    def _read(self, length: int, place: int) -> bytes:
        """Bytes of the contract's memory, or of the register `place` where length is 2^64 - 1."""
        if length == NO_REGISTER:
            return self._register(place)
        if place + length > self._memory.data_len(self._store):
            raise ExecutionError("MemoryAccessViolation")
        return bytes(self._memory.read(self._store, place, place + length))

    def _write(self, place: int, data: bytes) -> None:
        if place + len(data) > self._memory.data_len(self._store):
            raise ExecutionError("MemoryAccessViolation")
        self._memory.write(self._store, data, place)

    def _register(self, register: int) -> bytes:
        if register not in self._registers:
            raise ExecutionError("InvalidRegisterId")
        return self._registers[register]

    def _set(self, register: int, data: bytes) -> None:
        if register != NO_REGISTER:
            self._registers[register] = data

    # registers and context

    def read_register(self, register: int, place: int) -> None:
        self._write(place, self._register(register))

    def register_len(self, register: int) -> int:
        return len(self._registers[register]) if register in self._registers else -1

    def input(self, register: int) -> None:
        self._set(register, self._call.args)

    def predecessor_account_id(self, register: int) -> None:
        self._set(register, self._call.predecessor.encode())

    def signer_account_id(self, register: int) -> None:
        self._set(register, self._call.signer.encode())

    def signer_account_pk(self, register: int) -> None:
        self._set(register, self._call.public_key)

    def current_account_id(self, register: int) -> None:
        self._set(register, self._call.contract.encode())

    def attached_deposit(self, place: int) -> None:
        self._write(place, self._call.deposit.to_bytes(16, "little"))

    def block_timestamp(self) -> int:
        return self._now

    def storage_usage(self) -> int:
        return self._account.usage()

    # results

    def value_return(self, length: int, place: int) -> None:
        self.outcome.value = self._read(length, place)

    def log_utf8(self, length: int, place: int) -> None:
        self.outcome.logs.append(self._read(length, place).decode())

    def panic_utf8(self, length: int, place: int) -> None:
        raise ExecutionError(f"Smart contract panicked: {self._read(length, place).decode()}")

    # storage

    def storage_write(self, key_length: int, key: int, length: int, value: int, register: int) -> int:
        name = self._read(key_length, key)
        old = self._account.storage.get(name)
        self._account.storage[name] = self._read(length, value)
        if old is not None:
            self._set(register, old)
        return int(old is not None)

    def storage_read(self, length: int, key: int, register: int) -> int:
        value = self._account.storage.get(self._read(length, key))
        if value is not None:
            self._set(register, value)
        return int(value is not None)

    def storage_remove(self, length: int, key: int, register: int) -> int:
        value = self._account.storage.pop(self._read(length, key), None)
        if value is not None:
            self._set(register, value)
        return int(value is not None)

    def storage_has_key(self, length: int, key: int) -> int:
        return int(self._read(length, key) in self._account.storage)

    # mathematics

    def sha256(self, length: int, place: int, register: int) -> None:
        self._set(register, hashlib.sha256(self._read(length, place)).digest())

    def ed25519_verify(self, signature_length: int, signature: int, length: int, message: int, key_length: int,
                       key: int) -> int:
        if signature_length != 64 or key_length != 32:
            raise ExecutionError("Ed25519VerifyInvalidInput")
        try:
            Ed25519PublicKey.from_public_bytes(self._read(32, key)).verify(
                self._read(64, signature), self._read(length, message))
        except (InvalidSignature, ValueError):
            return 0
        return 1

    # promises

    def promise_batch_create(self, length: int, account: int) -> int:
        self._promises.append(self._read(length, account).decode())
        return len(self._promises) - 1

    def promise_batch_action_transfer(self, promise: int, place: int) -> None:
        if promise >= len(self._promises):
            raise ExecutionError("InvalidPromiseIndex")
        amount = int.from_bytes(self._read(16, place), "little")
        if amount > self._account.balance:
            raise ExecutionError("BalanceExceeded")
        self._account.balance -= amount
        self.outcome.transfers.append((self._promises[promise], amount))


# name: (number of parameters, number of results); all are 64-bit integers.
SIGNATURES = {
    "read_register": (2, 0), "register_len": (1, 1), "input": (1, 0), "predecessor_account_id": (1, 0),
    "signer_account_id": (1, 0), "signer_account_pk": (1, 0), "current_account_id": (1, 0),
    "attached_deposit": (1, 0), "block_timestamp": (0, 1), "storage_usage": (0, 1), "value_return": (2, 0),
    "log_utf8": (2, 0), "panic_utf8": (2, 0), "storage_write": (5, 1), "storage_read": (3, 1),
    "storage_remove": (3, 1), "storage_has_key": (2, 1), "sha256": (3, 0), "ed25519_verify": (6, 1),
    "promise_batch_create": (2, 1), "promise_batch_action_transfer": (2, 0),
}
PROHIBITED_IN_VIEW = frozenset((
    "predecessor_account_id", "signer_account_id", "signer_account_pk", "attached_deposit", "storage_write",
    "storage_remove", "promise_batch_create", "promise_batch_action_transfer",
))
