"""End-to-end encryption: the headers that ask for it, and the session of one request.

A client encrypts for the key that the attestation report shows and signatures are made with, and names the key that
answers are to be encrypted for. The hashes that are signed are of the ciphertext, as it is on the wire.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nearfield.node import fields
from nearfield.node.envelope import Cipher, ecdsa_cipher, ed25519_cipher
from nearfield.node.errors import NodeError
from nearfield.node.identity import Algorithm, Identity
from nearfield.node.keys import unhex

_ALGORITHM, _CLIENT_KEY = "x-signing-algo", "x-client-pub-key"
_VERSION, _ALL_FIELDS = "x-encryption-version", "x-encrypt-all-fields"


@dataclass(frozen=True)
class Session:
    """One request of a client that encrypts. It may be used for any number of chunks."""

    cipher: Cipher
    all_fields: bool

    def open_request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body in clear.

        Raises:
            NodeError: 400, a field is not encrypted for this node.
        """
        return fields.open_request(body, self.all_fields, self._decrypt)

    def seal_response(self, body: dict[str, Any]) -> dict[str, Any]:
        """An answer's JSON, encrypted for the client."""
        return fields.seal_answer(body, self.all_fields, self.seal, message="message")

    def seal_chunk(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """One event of a stream, encrypted for the client by itself."""
        return fields.seal_answer(chunk, self.all_fields, self.seal, message="delta")

    def seal(self, text: str) -> str:
        """One text, encrypted for the client: hex; an empty one stays empty."""
        return self.cipher.seal(text.encode()).hex() if text else ""

    def _decrypt(self, ciphertext: str, place: str) -> str:
        # One message for all that fails after the hex: which check it was is nobody's business.
        envelope = unhex(ciphertext)
        if envelope is None:
            raise NodeError(400, f"{place}: not encrypted: it should be ciphertext in hex, as the headers say")
        try:
            return self.cipher.open(envelope).decode()
        except ValueError:
            raise NodeError(400, f"{place}: can not be decrypted; encrypt UTF-8 for the signing_public_key of "
                                 "/v1/attestation/report, in the form that the headers name") from None


class Encryption:
    """Reads the headers of requests to one node."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def session(self, headers: Mapping[str, str]) -> Session | None:
        """The session that a request's headers ask for; None if they do not.

        Args:
            headers: By their names in lower case.

        Raises:
            NodeError: 400, naming the header that is missing or malformed.
        """
        named, key_text = headers.get(_ALGORITHM), headers.get(_CLIENT_KEY)
        if named is None and key_text is None:
            return None
        if named is None or key_text is None:
            raise NodeError(400, "Both X-Signing-Algo and X-Client-Pub-Key headers must be present together")
        if named.lower() not in ("ecdsa", "ed25519"):
            raise NodeError(400, "Invalid X-Signing-Algo. Must be 'ecdsa' or 'ed25519'")
        algorithm: Algorithm = "ecdsa" if named.lower() == "ecdsa" else "ed25519"
        version = headers.get(_VERSION, "1")
        if version not in ("1", "2"):
            raise NodeError(400, "Invalid X-Encryption-Version. Must be 1 or 2")
        return Session(self._cipher(algorithm, key_text, int(version)), _flag(headers))

    def _cipher(self, algorithm: Algorithm, key_text: str, version: int) -> Cipher:
        key = unhex(key_text)
        if key is None:
            raise NodeError(400, "X-Client-Pub-Key must be valid hex")
        try:
            if algorithm == "ed25519":
                if len(key) != 32:
                    raise NodeError(400, f"X-Client-Pub-Key: an ed25519 key has 32 bytes, this one {len(key)}")
                return ed25519_cipher(self._identity.ed25519, key, version)
            key = key[1:] if len(key) == 65 and key[0] == 4 else key
            if len(key) != 64:
                raise NodeError(400, "X-Client-Pub-Key: a secp256k1 key has 64 bytes, or 65 after a leading 04; "
                                     f"this one has {len(key)}")
            return ecdsa_cipher(self._identity.secp256k1, key)
        except ValueError:
            raise NodeError(400, f"X-Client-Pub-Key: not a public key that {algorithm} could encrypt for") from None


def _flag(headers: Mapping[str, str]) -> bool:
    value = headers.get(_ALL_FIELDS, "false").strip().lower()
    if value not in ("true", "1", "false", "0"):
        raise NodeError(400, "Invalid X-Encrypt-All-Fields. Must be true or false")
    return value in ("true", "1")
