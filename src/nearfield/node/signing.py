"""Signatures of answers, as NEAR AI's clients fetch and check them: `GET /v1/signature/{chat_id}`.

A text names the model and the SHA-256 of the exact bytes of the request and of the answer. It is signed as an Ethereum
wallet signs (EIP-191, recoverable) or with ed25519. The store keeps texts and signs when asked: few clients ask, both
algorithms are deterministic, so a later signature has the bytes that an earlier one would have had.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import cast

from coincurve import PublicKey
from Crypto.Hash import keccak
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from nearfield.node.errors import NodeError
from nearfield.node.identity import Algorithm, Identity, ethereum_address
from nearfield.node.keys import unhex

_ECDSA = re.compile("0x[0-9a-fA-F]{128}1[bcBC]")  # r, s, and v: 27 or 28
_ED25519 = re.compile("[0-9a-fA-F]{128}")


@dataclass(frozen=True)
class Signature:
    """What the endpoint answers; `asdict` is its JSON.

    Attributes:
        text: What is signed.
        signature: ecdsa: `0x`, r, s and v (27 or 28), 130 hex digits. ed25519: 128 hex digits.
        signing_address: ecdsa: `0x` and 40 hex digits. ed25519: the public key, 64 hex digits.
        signing_algo: ecdsa or ed25519.
    """

    text: str
    signature: str
    signing_address: str
    signing_algo: str

    def json(self) -> dict[str, str]:
        """The answer's JSON object."""
        return asdict(self)


def parse_algorithm(name: str | None) -> Algorithm:
    """`signing_algo` of a query; ecdsa where there is none.

    Raises:
        NodeError: 400, another word.
    """
    if name is None:
        return "ecdsa"
    if name in ("ecdsa", "ed25519"):
        return cast(Algorithm, name)
    raise NodeError(400, "Invalid signing algorithm. Must be 'ed25519' or 'ecdsa'")


def signed_text(model: str, request_sha256: str, response_sha256: str) -> str:
    """The text that is signed: the request's model, and the hashes of the bytes on the wire in hex."""
    return f"{model}:{request_sha256}:{response_sha256}"


def sign_text(identity: Identity, algo: Algorithm, text: str) -> Signature:
    """`text`, signed by the node."""
    if algo == "ed25519":
        signature = identity.sign(text.encode()).hex()
    else:
        recoverable = identity.secp256k1.sign_recoverable(_eip191(text.encode()), hasher=None)
        signature = "0x" + (recoverable[:64] + bytes([27 + recoverable[64]])).hex()
    return Signature(text, signature, identity.signing_address(algo), algo)


def verify_text(signed: Signature) -> bool:
    """Whether the signature is that of its address. False for whatever is malformed, so that any JSON can be asked."""
    parts = (signed.text, signed.signature, signed.signing_address, signed.signing_algo)
    if not all(isinstance(part, str) for part in parts):
        return False
    try:
        text = signed.text.encode()
        if signed.signing_algo == "ecdsa" and _ECDSA.fullmatch(signed.signature):
            return _recover(text, bytes.fromhex(signed.signature[2:])) == signed.signing_address.lower()
        if signed.signing_algo == "ed25519" and _ED25519.fullmatch(signed.signature):
            VerifyKey(unhex(signed.signing_address) or b"").verify(text, bytes.fromhex(signed.signature))
            return True
    except (ValueError, CryptoError):
        pass
    return False


def _recover(text: bytes, signature: bytes) -> str:
    """The address whose key made the 65 bytes r, s, v. Raises ValueError if none could."""
    recoverable = signature[:64] + bytes([signature[64] - 27])
    key = PublicKey.from_signature_and_message(recoverable, _eip191(text), hasher=None)
    return "0x" + ethereum_address(key.format(compressed=False)[1:]).hex()


def _eip191(text: bytes) -> bytes:
    """The hash that wallets sign for a personal message (https://eips.ethereum.org/EIPS/eip-191, version 0x45)."""
    message = b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text
    return keccak.new(digest_bits=256, data=message).digest()


class SignatureStore:
    """The signed texts of recent answers, by chat id. Holds no prompt and no answer. For one event loop.

    Texts live `ttl` seconds, and the oldest leave when there are more than `capacity`; NEAR AI's limits.
    """

    def __init__(self, identity: Identity, ttl: float = 1200, capacity: int = 10_000,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._identity, self._ttl, self._capacity, self._clock = identity, ttl, capacity, clock
        self._texts: OrderedDict[str, tuple[float, str]] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, chat_id: str, text: str) -> None:
        """Keeps the text of an answer that was sent whole."""
        self._texts[chat_id] = (self._clock() + self._ttl, text)
        self._texts.move_to_end(chat_id)
        self._leave()

    def get(self, chat_id: str, algo: str | None = None) -> Signature:
        """The signature of an answer.

        Raises:
            NodeError: 404, the id is unknown or expired; 400, no such algorithm.
        """
        self._leave()
        if chat_id not in self._texts:
            raise NodeError(404, "Chat id not found or expired")
        return sign_text(self._identity, parse_algorithm(algo), self._texts[chat_id][1])

    def _leave(self) -> None:
        now = self._clock()
        while self._texts:
            expires, _ = next(iter(self._texts.values()))
            if expires > now and len(self._texts) <= self._capacity:
                return
            self._texts.popitem(last=False)
