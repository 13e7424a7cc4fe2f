// Amounts in yocto-NEAR: unsigned 128-bit integers whose every operation is checked. An overflow ends the call.

import { fail } from "./near";

const LOW: u64 = 0xffff_ffff;

export class U128 {
  constructor(public low: u64, public high: u64) {}

  /** Reads 16 bytes, least significant first. */
  static load(from: usize): U128 {
    return new U128(load<u64>(from), load<u64>(from, 8));
  }

  store(to: usize): void {
    store<u64>(to, this.low);
    store<u64>(to, this.high, 8);
  }

  /** From decimal digits: no sign, no leading zero, at most 2^128 - 1. */
  static parse(text: string): U128 {
    let value = new U128(0, 0);
    if (text.length == 0 || (text.length > 1 && text.charCodeAt(0) == 0x30)) fail("Not a decimal number: " + text);
    for (let i = 0; i < text.length; i++) {
      const digit = text.charCodeAt(i) - 0x30;
      if (digit < 0 || digit > 9) fail("Not a decimal number: " + text);
      value = value.times(10, digit as u32);
    }
    return value;
  }

  toString(): string {
    let rest: U128 = this;
    let digits = "";
    do {
      let remainder: u64 = 0;
      const quotient = new U128(0, 0);
      for (let limb = 3; limb >= 0; limb--) {
        const part = (remainder << 32) | rest.limb(limb);
        quotient.setLimb(limb, part / 10);
        remainder = part % 10;
      }
      digits = String.fromCharCode(0x30 + (remainder as i32)) + digits;
      rest = quotient;
    } while (!rest.isZero());
    return digits;
  }

  isZero(): bool {
    return (this.low | this.high) == 0;
  }

  lessThan(other: U128): bool {
    return this.high == other.high ? this.low < other.low : this.high < other.high;
  }

  plus(other: U128): U128 {
    const low = this.low + other.low;
    const carry: u64 = low < this.low ? 1 : 0;
    const high = this.high + other.high;
    const sum = high + carry;
    if (high < this.high || sum < high) fail("An amount exceeds 128 bits");
    return new U128(low, sum);
  }

  minus(other: U128): U128 {
    if (this.lessThan(other)) fail("An amount would be negative");
    const borrow: u64 = this.low < other.low ? 1 : 0;
    return new U128(this.low - other.low, this.high - other.high - borrow);
  }

  /** This times `factor` plus `more`. */
  times(factor: u32, more: u32): U128 {
    const product = new U128(0, 0);
    let carry: u64 = more;
    for (let limb = 0; limb < 4; limb++) {
      carry += this.limb(limb) * (factor as u64);
      product.setLimb(limb, carry & LOW);
      carry >>= 32;
    }
    if (carry != 0) fail("An amount exceeds 128 bits");
    return product;
  }

  private limb(index: i32): u64 {
    return ((index < 2 ? this.low : this.high) >> (32 * (index & 1))) & LOW;
  }

  /** Sets 32 bits that are still zero. */
  private setLimb(index: i32, bits: u64): void {
    if (index < 2) this.low |= bits << (32 * (index & 1));
    else this.high |= bits << (32 * (index & 1));
  }
}
