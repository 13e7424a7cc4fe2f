// Bitcoin's base 58, in which NEAR writes keys and signatures, behind the prefix of their curve.

import { fail, require } from "./near";

const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const PREFIX = "ed25519:";

/** The `length` bytes of "ed25519:<base58>"; `what` names it in an error. */
export function decodeKey(text: string, length: i32, what: string): Uint8Array {
  require(text.startsWith(PREFIX), what + " must begin with " + PREFIX);
  // A byte is at most 1.37 characters, and an exact length is asked for: nothing longer is worth reading.
  require(text.length <= PREFIX.length + length * 2, what + " is too long");
  const bytes = new Uint8Array(length);
  let zeros = 0;
  while (PREFIX.length + zeros < text.length && text.charAt(PREFIX.length + zeros) == "1") zeros++;
  let used = 0;  // bytes at the end of `bytes` that are not zero by construction
  for (let i = PREFIX.length; i < text.length; i++) {
    let carry = ALPHABET.indexOf(text.charAt(i));
    require(carry >= 0, what + " is not base 58");
    for (let j = 0; j < used || carry != 0; j++) {
      require(j < length, what + " is too long");
      carry += 58 * (bytes[length - 1 - j] as i32);
      bytes[length - 1 - j] = carry as u8;
      carry >>= 8;
      if (j >= used) used = j + 1;
    }
  }
  if (zeros + used != length) fail(what + " must have " + length.toString() + " bytes");
  return bytes;
}

/** "ed25519:<base58>" of these bytes. */
export function encodeKey(bytes: Uint8Array): string {
  const rest = Uint8Array.wrap(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  let text = "";
  let start = 0;
  while (start < rest.length && rest[start] == 0) start++;
  const zeros = start;
  while (start < rest.length) {
    let remainder = 0;
    for (let i = start; i < rest.length; i++) {
      const part = (remainder << 8) | (rest[i] as i32);
      rest[i] = (part / 58) as u8;
      remainder = part % 58;
    }
    text = ALPHABET.charAt(remainder) + text;
    while (start < rest.length && rest[start] == 0) start++;
  }
  return PREFIX + "1".repeat(zeros) + text;
}
