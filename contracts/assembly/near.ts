// The NEAR host functions that the contracts call, each wrapped once. Signatures: nearcore's runtime, module "env".
// A host function hands bytes over through a numbered register; these wrappers use register 0 only.

import { U128 } from "./u128";

@external("env", "input") declare function host_input(register: u64): void;
@external("env", "register_len") declare function host_register_len(register: u64): u64;
@external("env", "read_register") declare function host_read_register(register: u64, to: u64): void;
@external("env", "value_return") declare function host_value_return(length: u64, from: u64): void;
@external("env", "panic_utf8") declare function host_panic_utf8(length: u64, from: u64): void;
@external("env", "predecessor_account_id") declare function host_predecessor_account_id(register: u64): void;
@external("env", "signer_account_id") declare function host_signer_account_id(register: u64): void;
@external("env", "signer_account_pk") declare function host_signer_account_pk(register: u64): void;
@external("env", "attached_deposit") declare function host_attached_deposit(to: u64): void;
@external("env", "block_timestamp") declare function host_block_timestamp(): u64;
@external("env", "storage_usage") declare function host_storage_usage(): u64;
@external("env", "storage_read") declare function host_storage_read(length: u64, key: u64, register: u64): u64;
@external("env", "storage_write")
declare function host_storage_write(keys: u64, key: u64, length: u64, value: u64, register: u64): u64;
@external("env", "storage_remove") declare function host_storage_remove(length: u64, key: u64, register: u64): u64;
@external("env", "ed25519_verify")
declare function host_ed25519_verify(signatures: u64, signature: u64, length: u64, message: u64, keys: u64,
                                     key: u64): u64;
@external("env", "promise_batch_create") declare function host_promise_batch_create(length: u64, account: u64): u64;
@external("env", "promise_batch_action_transfer")
declare function host_promise_batch_action_transfer(promise: u64, amount: u64): void;

/** Yocto-NEAR that an account must keep for each byte it stores: NEAR's price since 2021. */
const STORAGE_PRICE: u64 = 10_000_000_000_000_000_000;

function at(bytes: ArrayBuffer): u64 {
  return changetype<usize>(bytes) as u64;
}

function register(): ArrayBuffer {
  const bytes = new ArrayBuffer(host_register_len(0) as i32);
  host_read_register(0, at(bytes));
  return bytes;
}

export function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

/** Ends the call; all that it changed is undone, and the deposit goes back to who attached it. */
export function fail(message: string): void {
  const bytes = utf8(message);
  host_panic_utf8(bytes.byteLength, at(bytes));
  unreachable();
}

export function require(holds: bool, message: string): void {
  if (!holds) fail(message);
}

/** What the compiler calls when a check of its own fails, such as an index out of range. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  fail("Internal error: " + (message === null ? "" : message));
}

export function input(): Uint8Array {
  host_input(0);
  return Uint8Array.wrap(register());
}

export function answer(json: string): void {
  const bytes = utf8(json);
  host_value_return(bytes.byteLength, at(bytes));
}

/** The account that called: who signed the transaction, or the contract that called this one. */
export function caller(): string {
  host_predecessor_account_id(0);
  return String.UTF8.decode(register());
}

/** The account that signed the transaction. */
export function signer(): string {
  host_signer_account_id(0);
  return String.UTF8.decode(register());
}

/** The key that signed the transaction: one byte for its curve (0: ed25519), then the key. */
export function signerKey(): Uint8Array {
  host_signer_account_pk(0);
  return Uint8Array.wrap(register());
}

export function deposit(): U128 {
  const bytes = new ArrayBuffer(16);
  host_attached_deposit(at(bytes));
  return U128.load(changetype<usize>(bytes));
}

export function requireNoDeposit(): void {
  require(deposit().isZero(), "This method takes no deposit");
}

/** Nanoseconds since 1970. */
export function now(): u64 {
  return host_block_timestamp();
}

export function storageUsage(): u64 {
  return host_storage_usage();
}

/** Yocto-NEAR that `bytes` of storage cost. */
export function storageCost(bytes: u64): U128 {
  return new U128(STORAGE_PRICE, 0).times(bytes as u32, 0);
}

export function read(key: string): ArrayBuffer | null {
  const name = utf8(key);
  return host_storage_read(name.byteLength, at(name), 0) == 1 ? register() : null;
}

export function write(key: string, value: ArrayBuffer): void {
  const name = utf8(key);
  host_storage_write(name.byteLength, at(name), value.byteLength, at(value), 0);
}

export function remove(key: string): void {
  const name = utf8(key);
  host_storage_remove(name.byteLength, at(name), 0);
}

export function verify(signature: Uint8Array, message: Uint8Array, key: Uint8Array): bool {
  return host_ed25519_verify(signature.length, signature.dataStart as u64, message.length, message.dataStart as u64,
                             key.length, key.dataStart as u64) == 1;
}

/** Sends yocto-NEAR; it arrives one block later. If the account does not exist, the contract gets it back. */
export function transfer(account: string, amount: U128): void {
  if (amount.isZero()) return;
  const name = utf8(account);
  const bytes = new ArrayBuffer(16);
  amount.store(changetype<usize>(bytes));
  host_promise_batch_action_transfer(host_promise_batch_create(name.byteLength, at(name)), at(bytes));
}
