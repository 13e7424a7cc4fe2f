// The registry: which account serves which models, where, on what, at what price. Anyone may enter their own account,
// and pays for the storage until it is removed. Nothing here is verified but who signed; readers check the rest.
//
// Views are named as in NEAR's shade agents: get_agent(account_id), get_agents(from_index, limit).

import * as near from "./near";
import { require } from "./near";
import { encodeKey } from "./base58";
import { parse, Value } from "./json";
import * as fields from "./fields";

const MAX_ENDPOINT = 200;
const MAX_NAME = 128;
const MAX_PROFILE = 64;
const MAX_HARDWARE = 200;
const MAX_MODELS = 32;
const MAX_PAGE: u32 = 50;
const COUNT = "n";

// Stored: "n" the count; "i" and ten digits an account id; "a" and an account id its index (4 bytes) and its JSON.
// All lengths but those of the names are fixed, so that leaving frees exactly what entering took.

function recordKey(account: string): string {
  return "a" + account;
}

function indexKey(index: u32): string {
  return "i" + index.toString().padStart(10, "0");
}

function count(): u32 {
  const stored = near.read(COUNT);
  return stored === null ? 0 : load<u32>(changetype<usize>(stored));
}

function setCount(value: u32): void {
  const bytes = new ArrayBuffer(4);
  store<u32>(changetype<usize>(bytes), value);
  near.write(COUNT, bytes);
}

function setRecord(account: string, index: u32, json: string): void {
  const text = near.utf8(json);
  const bytes = new ArrayBuffer(4 + text.byteLength);
  store<u32>(changetype<usize>(bytes), index);
  memory.copy(changetype<usize>(bytes) + 4, changetype<usize>(text), text.byteLength);
  near.write(recordKey(account), bytes);
}

function indexOf(record: ArrayBuffer): u32 {
  return load<u32>(changetype<usize>(record));
}

function jsonOf(record: ArrayBuffer): string {
  return String.UTF8.decode(record.slice(4));
}

/** Takes the price of the storage that this call added from its deposit, and sends back what is over or freed. */
function settle(before: u64): void {
  const after = near.storageUsage();
  if (after > before) {
    const cost = near.storageCost(after - before);
    require(!near.deposit().lessThan(cost), "The deposit must be at least " + cost.toString() + " for the storage");
    near.transfer(near.caller(), near.deposit().minus(cost));
  } else {
    near.transfer(near.caller(), near.deposit().plus(near.storageCost(before - after)));
  }
}

/** The key whose signatures the caller answers for: that of this transaction. */
function ownKey(): string {
  require(near.signer() == near.caller(), "Call the registry from the account itself, not through a contract");
  const key = near.signerKey();
  require(key.length == 33 && key[0] == 0, "Sign with an ed25519 key: clients check the node's signatures with it");
  return encodeKey(key.subarray(1));
}

function model(value: Value): string {
  value.only(["name", "prompt", "cached", "completion"]);
  let json = '{"name":"' + fields.text(value.at("name"), MAX_NAME, "name") + '"';
  const prices = ["prompt", "cached", "completion"];
  for (let i = 0; i < prices.length; i++) {
    json += ',"' + prices[i] + '":"' + fields.amount(value.at(prices[i]), prices[i]).toString() + '"';
  }
  return json + "}";
}

/** The entry of the caller as it will be read, from the arguments of the call. */
function entry(): string {
  const args = parse(near.input()).only(["endpoint", "models", "profile", "hardware"]);
  const endpoint = fields.text(args.at("endpoint"), MAX_ENDPOINT, "endpoint");
  require(endpoint.startsWith("https://") || endpoint.startsWith("http://"), "endpoint must be an http(s) URL");
  const items = args.at("models").list("models");
  require(items.length > 0 && items.length <= MAX_MODELS, "models must be 1 to " + MAX_MODELS.toString());
  const models: string[] = [];
  for (let i = 0; i < items.length; i++) models.push(model(items[i]));
  return '{"account_id":"' + near.caller() + '","public_key":"' + ownKey() + '","endpoint":"' + endpoint
    + '","models":[' + models.join(",") + '],"profile":"'
    + fields.text(args.at("profile"), MAX_PROFILE, "profile") + '","hardware":"'
    + fields.text(args.at("hardware"), MAX_HARDWARE, "hardware") + '","updated_ms":'
    + (near.now() / 1_000_000).toString() + "}";
}

export function register(): void {
  const account = near.caller();
  require(near.read(recordKey(account)) === null, account + " is registered; use update");
  const index = count();
  setCount(index + 1);  // before the measuring: the contract itself pays for the first entry of "n"
  const before = near.storageUsage();
  near.write(indexKey(index), near.utf8(account));
  setRecord(account, index, entry());
  settle(before);
}

export function update(): void {
  const account = near.caller();
  const record = near.read(recordKey(account));
  if (record === null) near.fail(account + " is not registered; use register");
  const before = near.storageUsage();
  setRecord(account, indexOf(record!), entry());
  settle(before);
}

export function remove(): void {
  parse(near.input()).only([]);
  const account = near.caller();
  const record = near.read(recordKey(account));
  if (record === null) near.fail(account + " is not registered");
  const before = near.storageUsage();
  const index = indexOf(record!);
  const last = count() - 1;
  if (index != last) {  // the last entry takes the place that becomes free
    const moved = near.read(indexKey(last))!;
    const name = String.UTF8.decode(moved);
    near.write(indexKey(index), moved);
    setRecord(name, index, jsonOf(near.read(recordKey(name))!));
  }
  near.remove(indexKey(last));
  near.remove(recordKey(account));
  setCount(last);
  settle(before);
}

/** The entry of an account, or null. */
export function get_agent(): void {
  const account = fields.accountId(parse(near.input()).only(["account_id"]).at("account_id"), "account_id");
  const record = near.read(recordKey(account));
  near.answer(record === null ? "null" : jsonOf(record));
}

/** A page of entries. An entry that leaves moves another: who reads all pages may see one twice, or miss one. */
export function get_agents(): void {
  const args = parse(near.input()).only(["from_index", "limit"]);
  const from = fields.count(args, "from_index", 0);
  const end = min(count(), from + min(fields.count(args, "limit", MAX_PAGE), MAX_PAGE));
  const found: string[] = [];
  for (let index = from; index < end; index++) {
    const account = String.UTF8.decode(near.read(indexKey(index))!);
    found.push(jsonOf(near.read(recordKey(account))!));
  }
  near.answer("[" + found.join(",") + "]");
}
