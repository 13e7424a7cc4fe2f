"""The local VM itself: NEAR's rules that the contracts' tests rest on, each with a contract of a few instructions."""

import pytest
import wasmtime

from tests.node.near_vm import STORAGE_PRICE, Account, ExecutionError, LocalVM, Outcome

BALANCE = 10**25
HEAD = """
(import "env" "input" (func $input (param i64)))
(import "env" "register_len" (func $register_len (param i64) (result i64)))
(import "env" "read_register" (func $read_register (param i64 i64)))
(import "env" "value_return" (func $value_return (param i64 i64)))
(import "env" "storage_write" (func $storage_write (param i64 i64 i64 i64 i64) (result i64)))
(import "env" "attached_deposit" (func $attached_deposit (param i64)))
(import "env" "sha256" (func $sha256 (param i64 i64 i64)))
(import "env" "promise_batch_create" (func $promise (param i64 i64) (result i64)))
(import "env" "promise_batch_action_transfer" (func $transfer (param i64 i64)))
(memory (export "memory") 1)
(data (i32.const 0) "to.near")
"""


def run(body: str, *, view: bool = False, deposit: int = 0) -> tuple[LocalVM, Outcome]:
    vm = LocalVM()
    vm.deploy("c.near", bytes(wasmtime.wat2wasm(f'(module {HEAD} (func (export "m") {body}))')), BALANCE)
    vm.accounts |= {"by.near": Account(100), "to.near": Account(0)}
    if view:
        return vm, Outcome(vm.view("c.near", "m", b"7"))
    return vm, vm.call("c.near", "m", b"hello", by="by.near", deposit=deposit)


def test_registers_hold_bytes_and_stand_for_memory() -> None:
    body = "(call $input (i64.const 3)) (call $value_return (i64.const -1) (i64.const 3))"
    assert run(body)[1].value == b"hello"
    length = "(i64.store (i32.const 64) (call $register_len (i64.const 9))) " \
             "(call $value_return (i64.const 8) (i64.const 64))"
    assert run(length)[1].value == b"\xff" * 8, "2^64 - 1: the register is not set"
    with pytest.raises(ExecutionError, match="InvalidRegisterId"):
        run("(call $read_register (i64.const 9) (i64.const 0))")


def test_sha256_is_the_published_one() -> None:
    body = "(call $sha256 (i64.const 0) (i64.const 0) (i64.const 1)) (call $value_return (i64.const -1) (i64.const 1))"
    assert run(body)[1].value.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_memory_has_an_end() -> None:
    for place in (65536, 2**64 - 1):
        with pytest.raises(ExecutionError, match="MemoryAccessViolation"):
            run(f"(call $value_return (i64.const 1) (i64.const {place}))")
        with pytest.raises(ExecutionError, match="MemoryAccessViolation"):
            run(f"(call $attached_deposit (i64.const {place}))")


def test_views_change_nothing_and_know_no_caller() -> None:
    for body in ("(call $attached_deposit (i64.const 0))",
                 "(drop (call $promise (i64.const 7) (i64.const 0)))",
                 "(drop (call $storage_write (i64.const 1) (i64.const 0) (i64.const 1) (i64.const 0) (i64.const 0)))"):
        run(body)
        with pytest.raises(ExecutionError, match="ProhibitedInView"):
            run(body, view=True)


PAY = """(i64.store (i32.const 64) (i64.const {amount})) (call $transfer (call $promise (i64.const 7) (i64.const 0))
         (i64.const 64))"""


def test_a_transfer_moves_what_the_contract_has() -> None:
    vm, outcome = run(PAY.format(amount=9), deposit=5)
    assert outcome.transfers == [("to.near", 9)]
    assert (vm.accounts["by.near"].balance, vm.accounts["to.near"].balance) == (95, 9)
    assert vm.accounts["c.near"].balance == BALANCE + 5 - 9
    with pytest.raises(ExecutionError, match="BalanceExceeded"):
        run("(i64.store (i32.const 72) (i64.const -1))" + PAY.format(amount=0))
    with pytest.raises(ExecutionError, match="InvalidPromiseIndex"):
        run("(call $transfer (i64.const 0) (i64.const 64))")
    with pytest.raises(ExecutionError, match="NotEnoughBalance"):
        run("", deposit=101)


def test_a_failed_call_changes_nothing() -> None:
    vm = LocalVM()
    body = "(drop (call $storage_write (i64.const 1) (i64.const 0) (i64.const 1) (i64.const 0) (i64.const 0)))"
    code = f'(module {HEAD} (func (export "m") {body} {PAY.format(amount=1)} unreachable))'
    vm.deploy("c.near", bytes(wasmtime.wat2wasm(code)), BALANCE)
    vm.accounts |= {"by.near": Account(100), "to.near": Account(0)}
    for method, message in (("m", "trap"), ("x", "MethodNotFound")):
        with pytest.raises(ExecutionError, match=message):
            vm.call("c.near", method, {}, by="by.near", deposit=7)
        assert vm.accounts["c.near"] == Account(BALANCE, vm.accounts["c.near"].code)
        assert (vm.accounts["by.near"].balance, vm.accounts["to.near"].balance) == (100, 0)


def test_storage_locks_the_balance() -> None:
    code = bytes(wasmtime.wat2wasm(f'(module {HEAD} (func (export "m") (drop (call $storage_write (i64.const 1) '
                                   '(i64.const 0) (i64.const 2) (i64.const 0) (i64.const 0)))))'))
    needed = (100 + len(code) + 1 + 2 + 40) * STORAGE_PRICE
    for balance, enough in ((needed, True), (needed - 1, False)):
        vm = LocalVM()
        vm.deploy("c.near", code, balance)
        vm.accounts["by.near"] = Account()
        if enough:
            vm.call("c.near", "m", {}, by="by.near")
            assert vm.accounts["c.near"].usage() * STORAGE_PRICE == needed
        else:
            with pytest.raises(ExecutionError, match="LackBalanceForState"):
                vm.call("c.near", "m", {}, by="by.near")
