"""A client that asks of a node what NEAR AI's Python SDK asks of one that it talks to directly, in its order.

Report, chat, signature; each answer is checked with libraries that the node does not use (eth-account, cryptography),
but for XChaCha20-Poly1305, which only libsodium has. A check that fails is an AssertionError.
"""

import json
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from eth_account import Account
from eth_account.messages import encode_defunct
from nacl import bindings
from nacl.signing import SigningKey

Algorithm = Literal["ecdsa", "ed25519"]


@dataclass(frozen=True)
class Checked:
    """An answer that passed all checks: its text, its events or body as they came, and its id."""

    id: str
    text: str
    usage: dict[str, Any]
    body: bytes
    headers: httpx.Headers


class NearClient:
    """Talks to the node at `http` for one model. encrypt: end to end, with ed25519 in version 2."""

    def __init__(self, http: httpx.Client, model: str, algorithm: Algorithm, *, encrypt: bool = False,
                 signatures: httpx.Client | None = None) -> None:
        self._http, self._model, self._algorithm = http, model, algorithm
        self._signatures = signatures or http
        self._key = SigningKey.generate() if encrypt else None
        self.report = self._attested()

    def chat(self, messages: list[dict[str, str]], *, stream: bool, headers: dict[str, str] | None = None,
             **options: Any) -> Checked:
        """Ask, collect, fetch the signature and check it."""
        given = {"x-no-aliasing": "true", "x-model-pub-key": self.report["signing_public_key"], **(headers or {})}
        if self._key is not None:
            messages = [{**message, "content": self._seal(message["content"])} for message in messages]
            given |= {"X-Signing-Algo": "ed25519", "X-Client-Pub-Key": bytes(self._key.verify_key).hex(),
                      "X-Encryption-Version": "2"}
        request = json.dumps({"messages": messages, "model": self._model, "stream": stream, **options}).encode()
        given["Content-Type"] = "application/json"
        reply = self._http.post("/v1/chat/completions", content=request, headers=given)
        assert reply.status_code == 200, reply.text
        return self._checked(request, reply, stream)

    def _attested(self) -> dict[str, Any]:
        nonce = secrets.token_hex(32)
        query = {"nonce": nonce, "include_tls_fingerprint": "false", "signing_algo": self._algorithm}
        reply = self._signatures.get("/v1/attestation/report", params=query)
        assert reply.status_code == 200, reply.text
        report: dict[str, Any] = reply.json()
        own = {name: value for name, value in report.items() if name != "all_attestations"}
        assert own in report["all_attestations"]
        assert "tls_cert_fingerprint" not in report and report["request_nonce"] == nonce
        assert report["signing_algo"] == self._algorithm and report["model_name"] == self._model
        assert isinstance(report["event_log"], list) and "tcb_info" in report["info"]
        # Without a TEE the SDK stops here; the node says so and does not imitate a quote.
        assert report["tee"] == "none" and report["intel_quote"] == ""
        return report

    def _checked(self, request: bytes, reply: httpx.Response, stream: bool) -> Checked:
        chunks = _chunks(reply.content) if stream else [reply.json()]
        chat_id = chunks[0]["id"]
        assert all(chunk["id"] == chat_id for chunk in chunks)
        part = "delta" if stream else "message"
        text = "".join(self._opened(choice[part].get("content") or "") for chunk in chunks
                       for choice in chunk["choices"])
        usage = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
        signed = b"".join(block + b"\n\n" for block in reply.content.split(b"\n\n")
                          if block and not block.startswith(b":")) if stream else reply.content
        self.check_signature(chat_id, request, signed)
        return Checked(chat_id, text, usage, reply.content, reply.headers)

    def check_signature(self, chat_id: str, request: bytes, response: bytes) -> None:
        """Fetch the signature of an answer, and hold it against the bytes of both sides and the report's key."""
        reply = self._signatures.get(f"/v1/signature/{chat_id}", params={"signing_algo": self._algorithm})
        assert reply.status_code == 200, reply.text
        found = reply.json()
        assert set(found) == {"text", "signature", "signing_address", "signing_algo"}
        assert found["text"] == f"{self._model}:{sha256(request).hexdigest()}:{sha256(response).hexdigest()}"
        assert found["signing_algo"] == self._algorithm
        assert found["signing_address"] == self.report["signing_address"]
        if self._algorithm == "ecdsa":
            assert len(found["signature"]) == 132
            signer = Account.recover_message(encode_defunct(text=found["text"]), signature=found["signature"])
            assert signer.lower() == found["signing_address"]
        else:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found["signing_address"]))
            key.verify(bytes.fromhex(found["signature"]), found["text"].encode())

    def _seal(self, text: str) -> str:
        key = bindings.crypto_sign_ed25519_pk_to_curve25519(bytes.fromhex(self.report["signing_public_key"]))
        public, secret = bindings.crypto_box_keypair()
        nonce = secrets.token_bytes(24)
        shared = _derived(bindings.crypto_scalarmult(secret, key))
        sealed = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(text.encode(), None, nonce, shared)
        return (public + nonce + sealed).hex()

    def _opened(self, text: str) -> str:
        if self._key is None or not text:
            return text
        data = bytes.fromhex(text)
        secret = bindings.crypto_sign_ed25519_sk_to_curve25519(bytes(self._key) + bytes(self._key.verify_key))
        shared = _derived(bindings.crypto_scalarmult(secret, data[:32]))
        opened: bytes = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(data[56:], None, data[32:56], shared)
        return opened.decode()


def _chunks(data: bytes) -> list[dict[str, Any]]:
    events = [block for block in data.split(b"\n\n") if block and not block.startswith(b":")]
    assert data.endswith(b"data: [DONE]\n\n") and b"\r" not in data
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]


def _derived(shared: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, b"ed25519_encryption").derive(shared)
