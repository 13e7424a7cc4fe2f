"""NEAR's public keys as receipts need them. The packages of the extra `node` are imported when first used."""

from nearfield.core.errors import ConfigError
from nearfield.proof.errors import ReceiptError
from nearfield.proof.receipt import SignedReceipt, signed_message

_PREFIX = "ed25519:"


def key_bytes(text: str) -> bytes:
    """The 32 bytes of "ed25519:<base58>". Raises ReceiptError for another form."""
    try:
        from base58 import b58decode
    except ImportError:
        raise _missing() from None
    try:
        data = b58decode(text.removeprefix(_PREFIX).encode()) if text.startswith(_PREFIX) else b""
    except ValueError:
        data = b""
    if len(data) != 32 or key_text(data) != text:
        raise ReceiptError("public_key: is not ed25519:<base58 of 32 bytes>")
    return bytes(data)


def key_text(key: bytes) -> str:
    """A public key as NEAR writes it."""
    try:
        from base58 import b58encode
    except ImportError:
        raise _missing() from None
    return _PREFIX + b58encode(key).decode()


def verify_signature(signed: SignedReceipt) -> bool:
    """Whether the key that the receipt names has signed it."""
    try:
        from nacl.exceptions import CryptoError
        from nacl.signing import VerifyKey
    except ImportError:
        raise _missing() from None
    try:
        VerifyKey(signed.receipt.public_key).verify(signed_message(signed.receipt), signed.signature)
    except CryptoError:
        return False
    return True


def _missing() -> ConfigError:
    return ConfigError("receipts need the packages of a node: pip install 'nearfield[node]'")
