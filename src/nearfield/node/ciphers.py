"""The ciphers of end-to-end encryption: bytes to one party's public key, and back with its signing key.

    ed25519 v2   ephemeral public key (32) | nonce (24) | ciphertext and tag: X25519, HKDF-SHA256, XChaCha20-Poly1305
    ed25519 v1   the same bytes, with the key that NaCl's boxes derive (HChaCha20); boxes of XSalsa20 are opened too
    ecdsa        ephemeral public key (65, uncompressed) | nonce (12) | ciphertext and tag: secp256k1, HKDF-SHA256,
                 AES-256-GCM

As NEAR AI's provider and its SDK have them (near-ai inference-proxy, src/encryption.rs; nearai-inference-sdk 0.1.0).
Ed25519 keys become X25519 keys as libsodium converts them. What can not be opened is one error, whatever the reason:
a reason would tell an attacker how far a guess has come.
"""

import secrets
from typing import Protocol

import nacl.bindings as sodium
from coincurve import PrivateKey, PublicKey
from Crypto.Cipher import AES, ChaCha20
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from nacl.exceptions import CryptoError

from nearfield.node.identity import Identity

_SIGMA = b"expand 32-byte k"


class CipherError(Exception):
    """The bytes are not a message to this key."""


class Cipher(Protocol):
    """Opens what clients sent to the node, and seals what goes to the client of one request."""

    def seal(self, data: bytes) -> bytes: ...

    def open(self, data: bytes) -> bytes:
        """Raises CipherError."""


class Ed25519Cipher:
    """version: 1 or 2, how `seal` and `open` derive the key. client: its ed25519 public key, 32 bytes.

    Raises CipherError when that is not a point of the curve.
    """

    def __init__(self, identity: Identity, client: bytes, version: int) -> None:
        signing = identity.ed25519
        self._secret = sodium.crypto_sign_ed25519_sk_to_curve25519(bytes(signing) + bytes(signing.verify_key))
        self._version = version
        try:
            self._client = sodium.crypto_sign_ed25519_pk_to_curve25519(client)
        except (CryptoError, TypeError, ValueError):
            raise CipherError from None

    def seal(self, data: bytes) -> bytes:
        public, secret = sodium.crypto_box_keypair()
        nonce = secrets.token_bytes(24)
        key = self._key(secret, self._client)
        return public + nonce + sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(data, None, nonce, key)

    def open(self, data: bytes) -> bytes:
        public, nonce, sealed = data[:32], data[32:56], data[56:]
        try:
            return sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, None, nonce, self._key(self._secret, public))
        except (CryptoError, TypeError, ValueError):
            if self._version == 2:
                raise CipherError from None
        try:
            return sodium.crypto_box_open(sealed, nonce, public, self._secret)
        except (CryptoError, TypeError, ValueError):
            raise CipherError from None

    def _key(self, secret: bytes, public: bytes) -> bytes:
        shared = sodium.crypto_scalarmult(secret, public)
        return _hkdf(shared, b"ed25519_encryption") if self._version == 2 else _hchacha20(shared)


class EcdsaCipher:
    """client: its secp256k1 public key, 64 bytes (x and y) or 65 with the leading 04. Raises CipherError."""

    def __init__(self, identity: Identity, client: bytes) -> None:
        self._secret = identity.secp256k1
        self._client = _point(b"\x04" + client if len(client) == 64 else client)

    def seal(self, data: bytes) -> bytes:
        ephemeral, nonce = PrivateKey(), secrets.token_bytes(12)
        sealed, tag = AES.new(_agreed(ephemeral, self._client), AES.MODE_GCM, nonce=nonce).encrypt_and_digest(data)
        return ephemeral.public_key.format(compressed=False) + nonce + sealed + tag

    def open(self, data: bytes) -> bytes:
        if len(data) < 65 + 12 + 16:
            raise CipherError
        key = _agreed(self._secret, _point(data[:65]))
        try:
            return AES.new(key, AES.MODE_GCM, nonce=data[65:77]).decrypt_and_verify(data[77:-16], data[-16:])
        except ValueError:
            raise CipherError from None


def _point(data: bytes) -> PublicKey:
    if len(data) != 65 or data[0] != 4:
        raise CipherError
    try:
        return PublicKey(data)
    except ValueError:
        raise CipherError from None


def _agreed(secret: PrivateKey, public: PublicKey) -> bytes:
    """The key of the x coordinate that both sides reach."""
    shared = public.multiply(secret.secret).format(compressed=True)[1:]
    return _hkdf(shared, b"ecdsa_encryption")


def _hkdf(shared: bytes, info: bytes) -> bytes:
    # RFC 5869: no salt is a salt of zeros.
    key = HKDF(shared, 32, bytes(32), SHA256, context=info)
    if not isinstance(key, bytes):
        raise TypeError("one key was asked for")
    return key


def _hchacha20(key: bytes) -> bytes:
    """HChaCha20 of `key` and sixteen zeros (draft-irtf-cfrg-xchacha), as NaCl's boxes derive their key.

    It is ChaCha20's first block without the last addition of the state, which is taken off again: only the
    constants are not zero in the rows that are kept.
    """
    block = ChaCha20.new(key=key, nonce=bytes(12)).encrypt(bytes(64))
    first = b"".join(
        ((int.from_bytes(block[i:i + 4], "little") - int.from_bytes(_SIGMA[i:i + 4], "little")) % 2**32)
        .to_bytes(4, "little") for i in range(0, 16, 4))
    return first + block[48:]
