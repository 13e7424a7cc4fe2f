// What an argument may be: account ids, names, amounts. `what` names the argument in the error.

import { fail, require } from "./near";
import { U128 } from "./u128";
import { Kind, Value } from "./json";

/** Text of 1 to `limit` characters. */
export function text(value: Value, limit: i32, what: string): string {
  const found = value.string(what);
  require(found.length > 0, what + " is empty");
  require(found.length <= limit, what + " exceeds " + limit.toString() + " characters");
  return found;
}

/** An amount, as a string of decimal digits. */
export function amount(value: Value, what: string): U128 {
  return U128.parse(value.string(what));
}

/** A small whole number; `otherwise` where it is null or absent. */
export function count(object: Value, name: string, otherwise: u32): u32 {
  if (!object.names.includes(name) || object.at(name).kind == Kind.Null) return otherwise;
  const value = object.at(name);
  require(value.kind == Kind.Number && value.text.length <= 9, name + " must be a number below 1000000000");
  return U32.parseInt(value.text);
}

/** A NEAR account id: 2 to 64 of a-z, 0-9, and single separators - _ . between them. */
export function accountId(value: Value, what: string): string {
  const found = value.string(what);
  let separator = true;
  let valid = found.length >= 2 && found.length <= 64;
  for (let i = 0; i < found.length && valid; i++) {
    const code = found.charCodeAt(i);
    const letter = (code >= 0x61 && code <= 0x7a) || (code >= 0x30 && code <= 0x39);
    valid = letter || (!separator && (code == 0x2d || code == 0x5f || code == 0x2e));
    separator = !letter;
  }
  if (!valid || separator) fail(what + " is not a NEAR account id");
  return found;
}
