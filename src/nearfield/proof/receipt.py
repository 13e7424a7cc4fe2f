"""A receipt: what one answer was computed from and what came out, signed by the node that computed it.

The encoding is canonical: integers big-endian, digests of 32 bytes, texts with their length in front, fields in one
order, nothing around them. What decodes encodes to the same bytes; all other bytes are refused.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from nearfield.core.types import FinishReason
from nearfield.proof.digest import DIGEST_SIZE, tagged
from nearfield.proof.errors import ReceiptError

VERSION = 2
SIGNATURE_SIZE = 64
_TEXT = re.compile(r"[!-~]{1,128}")   # printable ASCII, no space
_FINISH = (FinishReason.STOP, FinishReason.LENGTH)
_SIGNED = b"nearfield receipt v1\n"
"""In front of the digest that is signed: no transaction or NEP-413 message of the same key begins so, or is as long."""


class SeedSource(StrEnum):
    """Who chose the seed: both sides' nonces, or the client by name."""

    NONCES = "nonces"
    REQUEST = "request"


class LimitSource(StrEnum):
    """What set the most tokens that an answer could have: the request (without a limit of its own, the context), or
    what was paid for."""

    REQUEST = "request"
    PAYMENT = "payment"


class Signer(Protocol):
    """A node's NEAR key. public_key: "ed25519:<base58>"."""

    @property
    def public_key(self) -> str: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True)
class Receipt:
    """Digests are 32 bytes; what each is of is said in digest.py, model_root.py and sampler_spec.py.

    index: the answer's number among those of the response; its number among those of its prompt is
    `sample_index`. seed: of the low 64 bits. number, previous: the place in the node's chain, and the digest of the
    receipt before (zeros in front of the first). created: when the request was taken in, in Unix seconds. sketch: of
    the states' sketches, zeros where there are none (approximate.py).
    """

    response_id: str
    index: int
    sample_index: int
    profile: str
    model_root: bytes
    tokenizer: bytes
    prompt_hash: bytes
    sampler_hash: bytes
    output_hash: bytes
    state_root: bytes
    sketch: bytes
    client_nonce: bytes
    node_nonce: bytes
    seed: int
    seed_source: SeedSource
    limit_source: LimitSource
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    number: int
    previous: bytes
    created: int
    public_key: bytes

    def __post_init__(self) -> None:
        for name, (_, _, holds) in _FIELDS.items():
            if not holds(getattr(self, name)):
                raise ReceiptError(f"receipt: {name} is out of range")

    def encode(self) -> bytes:
        """The canonical bytes, which are signed."""
        return bytes([VERSION]) + b"".join(write(getattr(self, name)) for name, (write, _, _) in _FIELDS.items())

    def digest(self) -> bytes:
        """What the receipt is known by: the next one of the node names it."""
        return tagged("receipt", self.encode())


class _Bytes:
    """A reader of canonical bytes, which raises ReceiptError at their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at:self._at + count]
        if len(piece) < count:
            raise ReceiptError(f"receipt: is cut short after {len(self._data)} bytes")
        self._at += count
        return piece

    def end(self) -> None:
        if self._at != len(self._data):
            raise ReceiptError(f"receipt: {len(self._data) - self._at} bytes too many")


_Field = tuple[Callable[[object], bytes], Callable[[_Bytes], object], Callable[[object], bool]]
"""How a field is written, read and checked."""


def _number(code: str) -> _Field:
    form = struct.Struct(code)
    return (lambda value: form.pack(value), lambda data: form.unpack(data.take(form.size))[0],
            lambda value: type(value) is int and 0 <= value < 256**form.size)


def _digest() -> _Field:
    return (lambda value: value if isinstance(value, bytes) else b"", lambda data: data.take(DIGEST_SIZE),
            lambda value: isinstance(value, bytes) and len(value) == DIGEST_SIZE)


def _text() -> _Field:
    return (lambda value: bytes([len(str(value))]) + str(value).encode(),
            lambda data: data.take(data.take(1)[0]).decode("latin-1"),
            lambda value: isinstance(value, str) and _TEXT.fullmatch(value) is not None)


def _choice(*values: StrEnum) -> _Field:
    def read(data: _Bytes) -> object:
        place = data.take(1)[0]
        return values[place] if place < len(values) else None

    return lambda value: bytes([list(values).index(value)]) if isinstance(value, StrEnum) else b"", read, (
        lambda value: any(value is each for each in values))


_FIELDS: dict[str, _Field] = {
    "response_id": _text(), "index": _number(">I"), "sample_index": _number(">I"), "profile": _text(),
    "model_root": _digest(), "tokenizer": _digest(), "prompt_hash": _digest(), "sampler_hash": _digest(),
    "output_hash": _digest(), "state_root": _digest(), "sketch": _digest(), "client_nonce": _digest(),
    "node_nonce": _digest(), "seed": _number(">Q"), "seed_source": _choice(*SeedSource),
    "limit_source": _choice(*LimitSource), "prompt_tokens": _number(">I"), "cached_tokens": _number(">I"),
    "completion_tokens": _number(">I"), "finish_reason": _choice(*_FINISH), "number": _number(">Q"),
    "previous": _digest(), "created": _number(">Q"), "public_key": _digest()}


@dataclass(frozen=True)
class SignedReceipt:
    """A receipt and the node's ed25519 signature, which is not checked before `verify_signature`."""

    receipt: Receipt
    signature: bytes

    def encode(self) -> bytes:
        """The receipt's bytes, then 64 of the signature."""
        return self.receipt.encode() + self.signature


def decode(data: bytes) -> SignedReceipt:
    """The signed receipt of which `data` is the encoding. Raises ReceiptError."""
    reader = _Bytes(data)
    if (version := reader.take(1)[0]) != VERSION:
        raise ReceiptError(f"receipt: version {version} is not known here, only {VERSION}")
    values = {name: read(reader) for name, (_, read, _) in _FIELDS.items()}
    signature = reader.take(SIGNATURE_SIZE)
    reader.end()
    return SignedReceipt(Receipt(**values), signature)   # type: ignore[arg-type]  # each is checked as it is made


def signed_message(receipt: Receipt) -> bytes:
    """The bytes that the node's key signs."""
    return _SIGNED + receipt.digest()


def sign(receipt: Receipt, signer: Signer) -> SignedReceipt:
    """The receipt under the node's signature."""
    return SignedReceipt(receipt, signer.sign(signed_message(receipt)))
