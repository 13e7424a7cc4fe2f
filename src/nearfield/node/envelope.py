"""Encryption of one text for one key, in the three forms of NEAR AI's clients: an ephemeral key, a nonce, ciphertext.

| form | agreement | cipher | bytes of an envelope |
|---|---|---|---|
| ed25519, version 2 | X25519, HKDF-SHA256 | XChaCha20-Poly1305 (AEAD) | key 32, nonce 24, text, tag 16 |
| ed25519, version 1 | X25519, HChaCha20 | NaCl's box with XChaCha20 | key 32, nonce 24, tag 16, text |
| ecdsa | secp256k1 (x), HKDF-SHA256 | AES-256-GCM | key 65, nonce 12, text, tag 16 |

Version 1 is libsodium's crypto_box_curve25519xchacha20poly1305, which the proxy's Rust library calls ChaChaBox; the
older clients it still reads have Salsa20 in its place. Both ends convert their ed25519 keys to X25519.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_bytes

from coincurve import PrivateKey, PublicKey
from Crypto.Cipher import AES, ChaCha20
from Crypto.Cipher._mode_gcm import GcmMode
from Crypto.Hash import Poly1305
from nacl import bindings
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey

_TAG = 16


@dataclass(frozen=True)
class Cipher:
    """Encryption between a node's key and a client's. `open` raises ValueError for what was not sealed for the node."""

    seal: Callable[[bytes], bytes] = field(repr=False)
    open: Callable[[bytes], bytes] = field(repr=False)


def ed25519_cipher(node: SigningKey, client: bytes, version: int) -> Cipher:
    """The ed25519 forms. client: an ed25519 public key, 32 bytes; version: 1 or 2.

    Raises:
        ValueError: `client` is no point to encrypt for.
    """
    try:
        peer = bindings.crypto_sign_ed25519_pk_to_curve25519(client)
    except CryptoError as error:
        raise ValueError("not an ed25519 public key") from error
    own = bytes(node.to_curve25519_private_key())
    close, disclose = (_close_v2, _disclose_v2) if version == 2 else (_close_v1, _disclose_v1)

    def seal(text: bytes) -> bytes:
        secret, nonce = token_bytes(32), token_bytes(24)
        return bindings.crypto_scalarmult_base(secret) + nonce + close(text, nonce, peer, secret)

    def open_(envelope: bytes) -> bytes:
        if len(envelope) < 32 + 24 + _TAG:
            raise ValueError("too short")
        try:
            return disclose(envelope[56:], envelope[32:56], envelope[:32], own)
        except CryptoError as error:
            raise ValueError("not sealed for this key") from error

    return Cipher(seal, open_)


def ecdsa_cipher(node: PrivateKey, client: bytes) -> Cipher:
    """The ecdsa form. client: a secp256k1 public key, x and y, 64 bytes.

    Raises:
        ValueError: `client` is no point of the curve.
    """
    peer = PublicKey(b"\4" + client)

    def seal(text: bytes) -> bytes:
        secret, nonce = PrivateKey(), token_bytes(12)
        cipher = _gcm(peer, secret, nonce)
        return secret.public_key.format(compressed=False) + nonce + b"".join(cipher.encrypt_and_digest(text))

    def open_(envelope: bytes) -> bytes:
        if len(envelope) < 65 + 12 + _TAG or envelope[0] != 4:
            raise ValueError("too short, or no uncompressed key")
        cipher = _gcm(PublicKey(envelope[:65]), node, envelope[65:77])
        return cipher.decrypt_and_verify(envelope[77:-_TAG], envelope[-_TAG:])

    return Cipher(seal, open_)


def hkdf(shared: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256 without salt (RFC 5869): one block of it."""
    extracted = hmac.digest(bytes(32), shared, hashlib.sha256)
    return hmac.digest(extracted, info + b"\1", hashlib.sha256)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 of a 32-byte key and 16 bytes (draft-irtf-cfrg-xchacha, section 2.2): 32 bytes.

    ChaCha20 adds its initial state to the rounds' result and HChaCha20 does not, so that a block of keystream, less
    that state, holds it: the first row, where the constant was, and the last, where counter and nonce were.
    """
    stream = ChaCha20.new(key=key, nonce=nonce[4:])
    stream.seek(64 * int.from_bytes(nonce[:4], "little"))
    block = struct.unpack("<16I", stream.encrypt(bytes(64)))
    state = struct.unpack("<8I", b"expand 32-byte k" + nonce)
    return struct.pack("<8I", *((word - was) % 2**32 for word, was in zip(block[:4] + block[12:], state, strict=True)))


def secretbox(key: bytes, nonce: bytes, text: bytes) -> bytes:
    """NaCl's secretbox with XChaCha20: the tag (16 bytes) and the ciphertext. key: 32 bytes; nonce: 24."""
    subkey = hchacha20(key, nonce[:16])
    ciphertext = _stream_xor(subkey, nonce, text)
    return _poly1305(subkey, nonce, ciphertext) + ciphertext


def secretbox_open(key: bytes, nonce: bytes, box: bytes) -> bytes:
    """The text in a `secretbox`. Raises ValueError if it is not of this key and nonce."""
    tag, ciphertext = box[:_TAG], box[_TAG:]
    subkey = hchacha20(key, nonce[:16])
    if not hmac.compare_digest(_poly1305(subkey, nonce, ciphertext), tag):
        raise ValueError("not sealed with this key")
    return _stream_xor(subkey, nonce, ciphertext)


def _stream_xor(subkey: bytes, nonce: bytes, data: bytes) -> bytes:
    stream = ChaCha20.new(key=subkey, nonce=nonce[16:])
    stream.encrypt(bytes(32))  # the tag's key comes first
    return stream.encrypt(data)


def _poly1305(subkey: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
    return Poly1305.new(key=subkey, cipher=ChaCha20, nonce=nonce[16:], data=ciphertext).digest()


def _close_v2(text: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(text, None, nonce, _key_v2(public, secret))


def _disclose_v2(ciphertext: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, None, nonce, _key_v2(public, secret))


def _key_v2(public: bytes, secret: bytes) -> bytes:
    return hkdf(bindings.crypto_scalarmult(secret, public), b"ed25519_encryption")


def _close_v1(text: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    return secretbox(_key_v1(public, secret), nonce, text)


def _disclose_v1(box: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    try:
        return secretbox_open(_key_v1(public, secret), nonce, box)
    except ValueError:
        return bindings.crypto_box_open_easy(box, nonce, public, secret)  # Salsa20, of older clients


def _key_v1(public: bytes, secret: bytes) -> bytes:
    return hchacha20(bindings.crypto_scalarmult(secret, public), bytes(16))


def _gcm(public: PublicKey, secret: PrivateKey, nonce: bytes) -> GcmMode:
    shared = public.multiply(secret.secret).format()[1:]  # x
    return AES.new(hkdf(shared, b"ecdsa_encryption"), AES.MODE_GCM, nonce=nonce)
