"""NEAR's text form of keys and names: `ed25519:<base58>`, account ids.

What near-cli writes to its credentials files, so that keys can come from it and go to it. An ed25519 secret is
64 bytes there, seed then public key; some tools keep the 32-byte seed alone. A secp256k1 public key is 64 bytes,
without the leading 04.
"""

import binascii
import re

import base58
from coincurve import PrivateKey
from nacl.signing import SigningKey

from nearfield.node.errors import IdentityError

# https://nomicon.io/DataStructures/Account: parts of a-z and 0-9 with single - or _ between, joined by dots.
_PART = "[a-z0-9]+(?:[-_][a-z0-9]+)*"
_ACCOUNT = re.compile(rf"{_PART}(?:\.{_PART})*")
_LONGEST_KEY = 128  # characters: a secret of 64 bytes has 88, and base58 takes quadratic time


def check_account(name: object) -> str:
    """The account id `name`, if NEAR would have it so: 2 to 64 characters.

    Raises:
        IdentityError: it is no account id.
    """
    if isinstance(name, str) and 2 <= len(name) <= 64 and _ACCOUNT.fullmatch(name):
        return name
    raise IdentityError("not a NEAR account id: it has 2 to 64 characters, of a-z and 0-9, with single '-', '_' or '.' "
                        "between them, such as alice.near")


def encode_key(curve: str, data: bytes) -> str:
    """`data` as NEAR writes keys: `<curve>:<base58>`."""
    return f"{curve}:{base58.b58encode(data).decode()}"


def decode_key(curve: str, text: object) -> bytes:
    """The bytes of a key that NEAR writes `<curve>:<base58>`.

    Raises:
        IdentityError: it is not a key of that curve; the message does not show it.
    """
    if isinstance(text, str) and len(text) <= _LONGEST_KEY and text.startswith(f"{curve}:"):
        try:
            return base58.b58decode(text.removeprefix(f"{curve}:").encode("ascii"))
        except ValueError:
            pass
    raise IdentityError(f"not a key in NEAR's form: it should be {curve}:<base58>")


def unhex(text: object) -> bytes | None:
    """The bytes of hexadecimal `text`, without a 0x; None if it is not that. Unlike bytes.fromhex, allows no spaces."""
    if not isinstance(text, str):
        return None
    try:
        return binascii.unhexlify(text)
    except ValueError:
        return None


def ed25519_secret(text: object) -> SigningKey:
    """The key of a secret in NEAR's form, 64 bytes or the 32 of a seed.

    Raises:
        IdentityError: it is none, or its two halves do not belong together.
    """
    secret = decode_key("ed25519", text)
    if len(secret) not in (32, 64):
        raise IdentityError(f"an ed25519 secret has 64 bytes, or 32 as a seed; this one has {len(secret)}")
    key = SigningKey(secret[:32])
    if len(secret) == 64 and bytes(key.verify_key) != secret[32:]:
        raise IdentityError("an ed25519 secret's last 32 bytes should be its public key; these are not")
    return key


def secp256k1_secret(text: object) -> PrivateKey:
    """The key of a secp256k1 secret in NEAR's form, 32 bytes.

    Raises:
        IdentityError: it is none.
    """
    secret = decode_key("secp256k1", text)
    if len(secret) != 32:
        raise IdentityError(f"a secp256k1 secret has 32 bytes; this one has {len(secret)}")
    try:
        return PrivateKey(secret)
    except ValueError:
        raise IdentityError("a secp256k1 secret lies between 1 and the order of the curve; this one does not") from None
