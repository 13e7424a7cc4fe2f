"""End-to-end encryption of a request and its answer, as NEAR AI's clients ask for it by headers.

    X-Signing-Algo: ed25519 | ecdsa        both or neither
    X-Client-Pub-Key: <hex>                32 bytes, or 64 or 65
    X-Encryption-Version: 1 | 2            of ed25519; 1 without it
    X-Encrypt-All-Fields: true | false

The node opens with the key that it signs with. Each field is a ciphertext of its own, in hexadecimal; in a stream each
delta is. The hashes that are signed are those of the ciphertext, as it is on the wire.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nearfield.node.ciphers import Cipher, CipherError, EcdsaCipher, Ed25519Cipher
from nearfield.node.errors import NodeError
from nearfield.node.fields import open_request, seal_response
from nearfield.node.identity import Identity
from nearfield.node.keys import unhex

_LENGTHS = {"ed25519": (32,), "ecdsa": (64, 65)}


@dataclass(frozen=True)
class Session:
    """The encryption of one request. every: names and arguments of tools too, and log-probabilities."""

    cipher: Cipher
    every: bool

    def open_request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request in the clear; `body` stays as it is.

        Raises:
            NodeError: 400, a field is not a ciphertext to this node, named.
        """
        clear = deepcopy(body)
        open_request(clear, self._open, self.every)
        return clear

    def seal_response(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer for the client; `body` stays as it is."""
        sealed = deepcopy(body)
        seal_response(sealed, self._seal, self.every)
        return sealed

    def seal_chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """One piece of a streamed answer, likewise."""
        return self.seal_response(chunk)

    def _open(self, text: str, field: str) -> str:
        data = unhex(text)
        if data is None:
            raise NodeError(400, f"{field}: Encrypted field is not valid hex")
        try:
            return self.cipher.open(data).decode()
        except (CipherError, UnicodeDecodeError):
            raise NodeError(400, f"{field}: Decryption failed; encrypt it to the signing_public_key of this node's "
                                 "attestation report") from None

    def _seal(self, text: str, _field: str) -> str:
        return self.cipher.seal(text.encode()).hex()


class Encryption:
    """Reads the headers, and opens with the keys of `identity`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def session(self, headers: Mapping[str, str]) -> Session | None:
        """The encryption that `headers` (names in lower case) ask for; None: none.

        Raises:
            NodeError: 400, a header is missing or malformed, named.
        """
        algo, key = headers.get("x-signing-algo"), headers.get("x-client-pub-key")
        if algo is None and key is None:
            for name in ("x-encryption-version", "x-encrypt-all-fields"):
                if name in headers:
                    raise NodeError(400, f"{name} needs X-Signing-Algo and X-Client-Pub-Key")
            return None
        if algo is None or key is None:
            raise NodeError(400, "Both X-Signing-Algo and X-Client-Pub-Key headers must be present together")
        every = _word(headers, "x-encrypt-all-fields", "false", ("true", "false")) == "true"
        version = int(_word(headers, "x-encryption-version", "1", ("1", "2")))
        return Session(self._cipher(algo.lower(), key, version), every)

    def _cipher(self, algo: str, key: str, version: int) -> Cipher:
        if algo not in _LENGTHS:
            raise NodeError(400, "Invalid X-Signing-Algo. Must be 'ecdsa' or 'ed25519'")
        client = unhex(key)
        if client is None:
            raise NodeError(400, "X-Client-Pub-Key must be valid hex")
        if len(client) not in _LENGTHS[algo]:
            lengths = " or ".join(map(str, _LENGTHS[algo]))
            raise NodeError(400, f"X-Client-Pub-Key: a key for {algo} has {lengths} bytes, got {len(client)}")
        try:
            if algo == "ed25519":
                return Ed25519Cipher(self._identity, client, version)
            return EcdsaCipher(self._identity, client)
        except CipherError:
            raise NodeError(400, f"X-Client-Pub-Key is not a point of the curve of {algo}") from None


def _word(headers: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    word = headers.get(name, default).strip().lower()
    if word not in allowed:
        raise NodeError(400, f"{name} must be {' or '.join(allowed)}")
    return word
