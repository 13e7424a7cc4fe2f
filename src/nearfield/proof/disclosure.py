"""A receipt with what opens its hashes, as JSON: what a node hands out and a verifier reads.

`fields` says in words what the bytes of `receipt` say; both must agree. The sampler's parameters, the ids of the
output and the digests of the states open the hashes; whether they do is for replay to tell.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from nearfield.core.request import SamplingParams
from nearfield.core.types import TokenId
from nearfield.proof.digest import DIGEST_SIZE
from nearfield.proof.errors import ReceiptError
from nearfield.proof.keys import key_text
from nearfield.proof.receipt import SignedReceipt, decode
from nearfield.proof.sampler_spec import read_sampler, sampler_json

_KEYS = ("receipt", "fields", "sampler", "output_ids", "state_digests")
_SKETCHES = "sketches"
MAX_TOKENS = 1 << 24
MAX_JSON = 256 << 20


@dataclass(frozen=True)
class Disclosure:
    """A signed receipt, the canonical sampler, the ids of the answer, the digests of its states, and their sketches
    where the receipt is approximate (approximate.py)."""

    signed: SignedReceipt
    sampler: SamplingParams
    output_ids: tuple[TokenId, ...]
    state_digests: tuple[bytes, ...]
    sketches: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """The wire form."""
        made = {"receipt": base64.b64encode(self.signed.encode()).decode(), "fields": readable(self.signed),
                "sampler": sampler_json(self.sampler), "output_ids": list(self.output_ids),
                "state_digests": [digest.hex() for digest in self.state_digests]}
        return made | ({_SKETCHES: base64.b64encode(self.sketches).decode()} if self.sketches else {})


def readable(signed: SignedReceipt) -> dict[str, Any]:
    """A receipt's fields for people: digests and the signature in hexadecimal, the key as NEAR writes it."""
    receipt = signed.receipt
    made = {field.name: _plain(getattr(receipt, field.name)) for field in fields(receipt)}
    return made | {"public_key": key_text(receipt.public_key), "digest": receipt.digest().hex(),
                   "signature": signed.signature.hex()}


def from_json(value: object) -> Disclosure:
    """The disclosure that `value` is the wire form of. Raises ReceiptError, naming what is wrong."""
    if not isinstance(value, Mapping) or not set(_KEYS) <= set(value) <= {*_KEYS, _SKETCHES}:
        raise ReceiptError(f"a receipt must be an object of {', '.join(_KEYS)}")
    signed = decode(_base64("receipt", value["receipt"]))
    if value["fields"] != readable(signed):
        raise ReceiptError("fields: do not say what the bytes of the receipt say")
    ids = value["output_ids"]
    if not isinstance(ids, list) or len(ids) > MAX_TOKENS or not all(type(i) is int and 0 <= i < 2**32 for i in ids):
        raise ReceiptError("output_ids: must be a list of token ids")
    return Disclosure(signed, read_sampler(value["sampler"]), tuple(ids), _digests(value["state_digests"]),
                      _base64(_SKETCHES, value.get(_SKETCHES, "")))


def read_receipts(text: str | bytes) -> list[Disclosure]:
    """The receipts of a file: one, or what `GET /v1/receipt/{id}` answered. Raises ReceiptError."""
    if len(text) > MAX_JSON:
        raise ReceiptError(f"the file of receipts has more than {MAX_JSON} bytes")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ReceiptError("the file of receipts is not valid JSON") from None
    listed = value.get("receipts") if isinstance(value, Mapping) else None
    if listed is None:
        return [from_json(value)]
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise ReceiptError("receipts: must be a list of at least one")
    return [from_json(each) for each in listed]


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _base64(name: str, value: object) -> bytes:
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode() != value:
        raise ReceiptError(f"{name}: is not canonical base64")
    return data


def _digests(value: object) -> tuple[bytes, ...]:
    try:
        read = tuple(bytes.fromhex(each) for each in value) if isinstance(value, list) else ()
    except (ValueError, TypeError):
        read = ()
    if [each.hex() for each in read] != value or not all(len(each) == DIGEST_SIZE for each in read):
        raise ReceiptError("state_digests: must be a list of digests in hexadecimal, in small letters")
    return read
