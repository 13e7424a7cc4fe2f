"""NEP-413: a signature of a message for one recipient, which can not be taken for a transaction.

https://github.com/near/NEPs/blob/master/neps/nep-0413.md: ed25519 over the SHA-256 of a tag and the payload in borsh,
where integers are little-endian, a string is its length (u32) and its UTF-8, and an option is 0, or 1 and the value.
"""

import hashlib

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from nearfield.node.errors import IdentityError, NodeError
from nearfield.node.keys import decode_key

_TAG = 2**31 + 413


def payload_hash(message: str, nonce: bytes, recipient: str, callback_url: str | None = None) -> bytes:
    """The 32 bytes that are signed.

    Raises:
        NodeError: 400, the nonce has not 32 bytes, or a text is no Unicode.
    """
    if len(nonce) != 32:
        raise NodeError(400, f"a NEP-413 nonce has 32 bytes; this one has {len(nonce)}")
    callback = b"\0" if callback_url is None else b"\1" + _string(callback_url)
    return hashlib.sha256(_u32(_TAG) + _string(message) + nonce + _string(recipient) + callback).digest()


def verify(public_key: object, signature: bytes, message: str, nonce: bytes, recipient: str,
           callback_url: str | None = None) -> bool:
    """Whether `signature` is that of `public_key` (`ed25519:<base58>`). False for a malformed key or signature.

    It says nothing of whose key it is: ask the chain for the account's keys.

    Raises:
        NodeError: as `payload_hash` does.
    """
    digest = payload_hash(message, nonce, recipient, callback_url)
    try:
        VerifyKey(decode_key("ed25519", public_key)).verify(digest, signature)
    except (IdentityError, CryptoError, ValueError, TypeError):
        return False
    return True


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _string(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise NodeError(400, "a text to be signed should be Unicode, without lone surrogates") from None
    return _u32(len(data)) + data
