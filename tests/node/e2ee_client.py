"""A client that encrypts, written on other libraries than the node: what NEAR AI's SDK does, in either form."""

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl import bindings
from nacl.public import Box
from nacl.public import PrivateKey as BoxKey
from nacl.public import PublicKey as BoxPublicKey
from nacl.signing import SigningKey


def derive(shared: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(shared)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


@dataclass
class Ed25519Client:
    """Version 2. node: the node's ed25519 public key."""

    node: bytes
    key: SigningKey

    @property
    def headers(self) -> dict[str, str]:
        return {"x-signing-algo": "ed25519", "x-client-pub-key": bytes(self.key.verify_key).hex(),
                "x-encryption-version": "2"}

    def encrypt(self, text: str) -> str:
        secret, nonce = secrets.token_bytes(32), secrets.token_bytes(24)
        shared = bindings.crypto_scalarmult(secret, bindings.crypto_sign_ed25519_pk_to_curve25519(self.node))
        key = derive(shared, b"ed25519_encryption")
        ciphertext = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(text.encode(), None, nonce, key)
        return (bindings.crypto_scalarmult_base(secret) + nonce + ciphertext).hex()

    def decrypt(self, ciphertext: str) -> str:
        envelope = bytes.fromhex(ciphertext)
        shared = bindings.crypto_scalarmult(bytes(self.key.to_curve25519_private_key()), envelope[:32])
        key = derive(shared, b"ed25519_encryption")
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(envelope[56:], None, envelope[32:56], key).decode()


@dataclass
class OldClient:
    """Version 1, of the older clients that have NaCl's own box. It can only encrypt."""

    node: bytes
    key: SigningKey

    @property
    def headers(self) -> dict[str, str]:
        return {"x-signing-algo": "ed25519", "x-client-pub-key": bytes(self.key.verify_key).hex()}

    def encrypt(self, text: str) -> str:
        secret = BoxKey.generate()
        public = BoxPublicKey(bindings.crypto_sign_ed25519_pk_to_curve25519(self.node))
        return (bytes(secret.public_key) + Box(secret, public).encrypt(text.encode())).hex()


@dataclass
class EcdsaClient:
    """node: the node's secp256k1 public key, 64 bytes."""

    node: bytes
    key: ec.EllipticCurvePrivateKey

    @property
    def headers(self) -> dict[str, str]:
        return {"x-signing-algo": "ecdsa", "x-client-pub-key": _point(self.key.public_key())[1:].hex()}

    def encrypt(self, text: str) -> str:
        secret, nonce = ec.generate_private_key(ec.SECP256K1()), secrets.token_bytes(12)
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), b"\4" + self.node)
        key = derive(secret.exchange(ec.ECDH(), public), b"ecdsa_encryption")
        return (_point(secret.public_key()) + nonce + AESGCM(key).encrypt(nonce, text.encode(), None)).hex()

    def decrypt(self, ciphertext: str) -> str:
        envelope = bytes.fromhex(ciphertext)
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), envelope[:65])
        key = derive(self.key.exchange(ec.ECDH(), public), b"ecdsa_encryption")
        return AESGCM(key).decrypt(envelope[65:77], envelope[77:], None).decode()


Client = Ed25519Client | EcdsaClient


def ed25519_client(node: bytes) -> Ed25519Client:
    return Ed25519Client(node, SigningKey.generate())


def ecdsa_client(node: bytes) -> EcdsaClient:
    return EcdsaClient(node, ec.generate_private_key(ec.SECP256K1()))
