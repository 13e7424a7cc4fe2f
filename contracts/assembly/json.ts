// The arguments of a call. A strict part of JSON: strings are printable ASCII without escapes, numbers are whole and
// not negative, no name comes twice, and nothing may follow. What is read here can be written out again as it is.

import { fail, require } from "./near";

const MAX_BYTES = 16384;
const MAX_DEPTH = 5;

export enum Kind { Null, Text, Number, List, Object }

export class Value {
  text: string = "";
  names: string[] = [];
  items: Value[] = [];

  constructor(public kind: Kind) {}

  /** The member of that name. */
  at(name: string): Value {
    require(this.kind == Kind.Object, "An object with " + name + " is expected");
    const index = this.names.indexOf(name);
    require(index >= 0, name + " is missing");
    return this.items[index];
  }

  /** This value, which must be an object of members with these names and no others. */
  only(names: string[]): Value {
    require(this.kind == Kind.Object, "An object with " + names.join(", ") + " is expected");
    for (let i = 0; i < this.names.length; i++) {
      require(names.includes(this.names[i]), this.names[i] + " is not known here; known: " + names.join(", "));
    }
    return this;
  }

  string(what: string): string {
    require(this.kind == Kind.Text, what + " must be a string");
    return this.text;
  }

  list(what: string): Value[] {
    require(this.kind == Kind.List, what + " must be a list");
    return this.items;
  }
}

export function parse(bytes: Uint8Array): Value {
  require(bytes.length <= MAX_BYTES, "The arguments exceed " + MAX_BYTES.toString() + " bytes");
  const reader = new Reader(bytes);
  const value = reader.value(0);
  reader.end();
  return value;
}

class Reader {
  private place: i32 = 0;

  constructor(private bytes: Uint8Array) {}

  value(depth: i32): Value {
    if (depth > MAX_DEPTH) this.malformed("too deep");
    const first = this.peek();
    if (first == 0x7b) return this.object(depth);
    if (first == 0x5b) return this.list(depth);
    if (first == 0x22) return this.string();
    if (first >= 0x30 && first <= 0x39) return this.number();
    if (first == 0x6e) return this.none();
    this.malformed("a value is expected");
    return new Value(Kind.Null);
  }

  end(): void {
    if (this.peek() != -1) this.malformed("nothing may follow");
  }

  private object(depth: i32): Value {
    const value = new Value(Kind.Object);
    this.take(0x7b);
    while (this.peek() != 0x7d) {
      if (value.names.length > 0) this.take(0x2c);
      const name = this.string().text;
      if (value.names.includes(name)) this.malformed(name + " comes twice");
      this.take(0x3a);
      value.names.push(name);
      value.items.push(this.value(depth + 1));
    }
    this.take(0x7d);
    return value;
  }

  private list(depth: i32): Value {
    const value = new Value(Kind.List);
    this.take(0x5b);
    while (this.peek() != 0x5d) {
      if (value.items.length > 0) this.take(0x2c);
      value.items.push(this.value(depth + 1));
    }
    this.take(0x5d);
    return value;
  }

  private string(): Value {
    const value = new Value(Kind.Text);
    this.take(0x22);
    const start = this.place;
    while (this.place < this.bytes.length && this.bytes[this.place] != 0x22) {
      const byte = this.bytes[this.place];
      if (byte < 0x20 || byte > 0x7e || byte == 0x5c) {
        this.malformed("strings are printable ASCII without escapes");
      }
      this.place++;
    }
    value.text = this.slice(start);
    this.take(0x22);
    return value;
  }

  private number(): Value {
    const value = new Value(Kind.Number);
    const start = this.place;
    while (this.place < this.bytes.length && this.bytes[this.place] >= 0x30 && this.bytes[this.place] <= 0x39) {
      this.place++;
    }
    value.text = this.slice(start);
    return value;
  }

  private none(): Value {
    const start = this.place;
    this.place = min(start + 4, this.bytes.length);
    if (this.slice(start) != "null") this.malformed("a value is expected");
    return new Value(Kind.Null);
  }

  private slice(start: i32): string {
    return String.UTF8.decodeUnsafe(this.bytes.dataStart + start, this.place - start);
  }

  /** The next byte that is not white space, or -1 at the end. */
  private peek(): i32 {
    while (this.place < this.bytes.length) {
      const byte = this.bytes[this.place];
      if (byte != 0x20 && byte != 0x09 && byte != 0x0a && byte != 0x0d) return byte;
      this.place++;
    }
    return -1;
  }

  private take(byte: i32): void {
    if (this.peek() != byte) this.malformed("'" + String.fromCharCode(byte) + "' is expected");
    this.place++;
  }

  private malformed(why: string): void {
    fail("Malformed JSON at byte " + this.place.toString() + ": " + why);
  }
}
