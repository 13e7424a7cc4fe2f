// The payment channel: a sender deposits, signs ever larger totals off chain, and the receiver collects the last one.
//
// Methods, arguments and signed bytes are those of NEAR AI's pay-per-prompt (nearai/payment-channels), so that its
// clients work. What differs, and the threats, are in docs/contracts.md; above all: nothing beyond a channel's own
// deposit is ever paid from it, and a channel pays for the storage that it takes.

import * as near from "./near";
import { require } from "./near";
import { U128 } from "./u128";
import { decodeKey, encodeKey } from "./base58";
import { parse, Value } from "./json";
import * as fields from "./fields";

const CHALLENGE_NS: u64 = 7 * 24 * 60 * 60 * 1_000_000_000;
const KEY_BYTES = 32;
const SIGNATURE_BYTES = 64;
const MAX_ID = 64;

class Party {
  constructor(public account: string, public key: Uint8Array) {}

  static of(value: Value, what: string): Party {
    value.only(["account_id", "public_key"]);
    return new Party(fields.accountId(value.at("account_id"), what + ".account_id"),
                     decodeKey(value.at("public_key").string(what + ".public_key"), KEY_BYTES, what + ".public_key"));
  }

  json(): string {
    return '{"account_id":"' + this.account + '","public_key":"' + encodeKey(this.key) + '"}';
  }
}

/** A channel as it is stored: its size never changes while it is open. */
class Channel {
  withdrawn: U128 = new U128(0, 0);
  closing: u64 = 0;  // when the force close was started, in nanoseconds; 0: it was not

  constructor(public id: string, public receiver: Party, public sender: Party, public added: U128) {}

  static key(id: string): string {
    return "c" + id;
  }

  static load(id: string): Channel {
    const stored = near.read(Channel.key(id));
    if (stored === null) near.fail("No such channel: " + id);
    if (stored!.byteLength == 0) near.fail("The channel is closed: " + id);
    return Channel.decode(id, stored!);
  }

  // added 16 | withdrawn 16 | closing 8 | receiver's key 32 | sender's key 32 | length 1 | receiver's account | sender's
  static decode(id: string, bytes: ArrayBuffer): Channel {
    const base = changetype<usize>(bytes);
    const cut = 105 + (load<u8>(base, 104) as i32);
    const receiver = new Party(String.UTF8.decode(bytes.slice(105, cut)), Uint8Array.wrap(bytes.slice(40, 72)));
    const sender = new Party(String.UTF8.decode(bytes.slice(cut)), Uint8Array.wrap(bytes.slice(72, 104)));
    const channel = new Channel(id, receiver, sender, U128.load(base));
    channel.withdrawn = U128.load(base + 16);
    channel.closing = load<u64>(base, 32);
    return channel;
  }

  save(): void {
    const accounts = near.utf8(this.receiver.account + this.sender.account);
    const bytes = new ArrayBuffer(105 + accounts.byteLength);
    const base = changetype<usize>(bytes);
    this.added.store(base);
    this.withdrawn.store(base + 16);
    store<u64>(base, this.closing, 32);
    memory.copy(base + 40, this.receiver.key.dataStart, KEY_BYTES);
    memory.copy(base + 72, this.sender.key.dataStart, KEY_BYTES);
    store<u8>(base, this.receiver.account.length as u8, 104);
    memory.copy(base + 105, changetype<usize>(accounts), accounts.byteLength);
    near.write(Channel.key(this.id), bytes);
  }

  /** Pays the receiver up to the total that the sender signed. */
  withdraw(state: SignedState): void {
    require(state.signedBy(this.sender), "The state is not signed by the sender");
    require(this.withdrawn.lessThan(state.spent), "Nothing to withdraw: the state is not newer");
    require(!this.added.lessThan(state.spent), "Over-spent: the state exceeds the channel's deposit");
    const due = state.spent.minus(this.withdrawn);
    this.withdrawn = state.spent;
    this.save();
    near.transfer(this.receiver.account, due);
  }

  /** The receiver gives up what it has not withdrawn. */
  close(state: SignedState): void {
    require(state.signedBy(this.receiver), "The state is not signed by the receiver");
    require(state.spent.isZero(), "The receiver's state must have spent_balance 0");
    this.end();
  }

  /** Pays the rest to the sender, with the price of the storage that becomes free. The id stays used for ever: old
   *  states of a channel would be good for a new one of the same id. */
  end(): void {
    const before = near.storageUsage();
    near.write(Channel.key(this.id), new ArrayBuffer(0));
    const freed = near.storageCost(before - near.storageUsage());
    near.transfer(this.sender.account, this.added.minus(this.withdrawn).plus(freed));
  }

  json(): string {
    return '{"receiver":' + this.receiver.json() + ',"sender":' + this.sender.json()
      + ',"added_balance":"' + this.added.toString() + '","withdrawn_balance":"' + this.withdrawn.toString()
      + '","force_close_started":' + (this.closing == 0 ? "null" : this.closing.toString()) + "}";
  }
}

class SignedState {
  constructor(public id: string, public spent: U128, public signature: Uint8Array) {}

  static of(value: Value): SignedState {
    const state = value.only(["state", "signature"]).at("state").only(["channel_id", "spent_balance"]);
    return new SignedState(channelId(state), fields.amount(state.at("spent_balance"), "spent_balance"),
                           decodeKey(value.at("signature").string("signature"), SIGNATURE_BYTES, "signature"));
  }

  /** Checks the signature over the borsh form: length of the id (u32), the id, the spent balance (u128). */
  signedBy(party: Party): bool {
    const id = near.utf8(this.id);
    const message = new Uint8Array(4 + id.byteLength + 16);
    store<u32>(message.dataStart, id.byteLength);
    memory.copy(message.dataStart + 4, changetype<usize>(id), id.byteLength);
    this.spent.store(message.dataStart + 4 + id.byteLength);
    return near.verify(this.signature, message, party.key);
  }
}

function channelId(object: Value): string {
  return fields.text(object.at("channel_id"), MAX_ID, "channel_id");
}

function idArgument(): string {
  return channelId(parse(near.input()).only(["channel_id"]));
}

export function open_channel(): void {
  const args = parse(near.input()).only(["channel_id", "receiver", "sender"]);
  const id = channelId(args);
  const receiver = Party.of(args.at("receiver"), "receiver");
  const sender = Party.of(args.at("sender"), "sender");
  // Both sign the same kind of message: with one key, a sender's state of 0 would pass for the receiver's close.
  require(encodeKey(receiver.key) != encodeKey(sender.key), "Sender and receiver must have different keys");
  require(near.read(Channel.key(id)) === null, "The channel id is or was in use: " + id);
  const channel = new Channel(id, receiver, sender, near.deposit());
  const before = near.storageUsage();
  channel.save();
  const cost = near.storageCost(near.storageUsage() - before);
  require(!channel.added.lessThan(cost), "The deposit must be at least " + cost.toString() + " for the storage");
  channel.added = channel.added.minus(cost);
  channel.save();
}

export function topup(): void {
  const channel = Channel.load(idArgument());
  require(channel.closing == 0, "The channel is closing");
  require(!near.deposit().isZero(), "A deposit is required");
  channel.added = channel.added.plus(near.deposit());
  channel.save();
}

export function withdraw(): void {
  near.requireNoDeposit();
  const state = SignedState.of(parse(near.input()).only(["state"]).at("state"));
  Channel.load(state.id).withdraw(state);
}

export function close(): void {
  near.requireNoDeposit();
  const state = SignedState.of(parse(near.input()).only(["state"]).at("state"));
  Channel.load(state.id).close(state);
}

export function withdraw_and_close(): void {
  near.requireNoDeposit();
  const args = parse(near.input()).only(["state", "close"]);
  const state = SignedState.of(args.at("state"));
  const closing = SignedState.of(args.at("close"));
  require(state.id == closing.id, "Both states must be of one channel");
  const channel = Channel.load(state.id);
  channel.withdraw(state);
  channel.close(closing);
}

export function force_close_start(): void {
  near.requireNoDeposit();
  const channel = Channel.load(idArgument());
  require(near.caller() == channel.sender.account, "Only the sender can start a force close");
  require(channel.closing == 0, "The channel is already closing");
  channel.closing = near.now();
  channel.save();
}

export function force_close_finish(): void {
  near.requireNoDeposit();
  const channel = Channel.load(idArgument());
  require(channel.closing != 0, "The channel is not closing");
  require(near.now() - channel.closing >= CHALLENGE_NS, "The channel can be closed 7 days after the start");
  channel.end();
}

/** The channel, or null where there is none or it is closed. */
export function channel(): void {
  const id = idArgument();
  const stored = near.read(Channel.key(id));
  near.answer(stored === null || stored.byteLength == 0 ? "null" : Channel.decode(id, stored).json());
}
