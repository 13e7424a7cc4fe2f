"""Signatures of answers: NEAR AI's published vector, independent libraries, and the store."""

import base64
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from nearfield.node import nep413
from nearfield.node.errors import NodeError
from nearfield.node.identity import Identity
from nearfield.node.keys import ed25519_secret, encode_key
from nearfield.node.signing import Signature, SignatureStore, sign_text, signed_text, verify_text

NODE = Identity("node.near", SigningKey(b"\x01" * 32), PrivateKey(b"\x02" * 32))


def test_the_published_vector(shared_data: Path) -> None:
    vector = json.loads((shared_data / "near" / "docs-chat-verification" / "vector.json").read_text())
    given_signature = vector["signature"]
    request, response = (sha256(vector[name].encode()).hexdigest() for name in ("request_body", "response_body"))
    model = json.loads(vector["request_body"])["model"]
    assert signed_text(model, request, response) == given_signature["text"]
    signed = Signature(*(given_signature[name] for name in ("text", "signature", "signing_address", "signing_algo")))
    assert verify_text(signed)
    assert not verify_text(replace(signed, text=signed.text[:-1] + "0"))


@given(text=st.text(max_size=300))
def test_independent_libraries_agree(text: str) -> None:
    ecdsa, ed25519 = sign_text(NODE, "ecdsa", text), sign_text(NODE, "ed25519", text)
    address = Account.recover_message(encode_defunct(text=text), signature=ecdsa.signature)
    assert address.lower() == ecdsa.signing_address
    account = Account.from_key(NODE.secp256k1.secret)
    assert "0x" + account.sign_message(encode_defunct(text=text)).signature.hex().removeprefix("0x") == ecdsa.signature
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(ed25519.signing_address))
    public.verify(bytes.fromhex(ed25519.signature), text.encode())
    assert verify_text(ecdsa) and verify_text(ed25519)
    assert (len(ecdsa.signature), len(ed25519.signature)) == (132, 128)


@given(parts=st.tuples(*[st.text(max_size=140) | st.none() | st.integers()] * 3),
       algo=st.sampled_from(["ecdsa", "ed25519", "", "rsa", None]))
def test_whatever_is_malformed_is_not_verified(parts: tuple[Any, Any, Any], algo: Any) -> None:
    assert not verify_text(Signature(*parts, algo))


def test_changed_signatures(shared_data: Path) -> None:
    for algo in ("ecdsa", "ed25519"):
        signed = sign_text(NODE, algo, "m:a:b")
        for i in range(2, len(signed.signature)):
            other = signed.signature[:i] + ("0" if signed.signature[i] != "0" else "1") + signed.signature[i + 1:]
            assert not verify_text(replace(signed, signature=other)), (algo, i)


def test_the_store_forgets_by_age_and_by_number() -> None:
    now = 0.0
    store = SignatureStore(NODE, ttl=10, capacity=2, clock=lambda: now)
    for name in ("a", "b", "c"):
        store.put(name, name)
    with pytest.raises(NodeError, match="Chat id not found or expired"):
        store.get("a")
    assert verify_text(store.get("b", "ed25519")) and store.get("c").signing_algo == "ecdsa"
    now = 10.0
    with pytest.raises(NodeError) as caught:
        store.get("c")
    assert caught.value.status == 404 and len(store) == 0
    store.put("d", "d")
    with pytest.raises(NodeError, match="Invalid signing algorithm"):
        store.get("d", "rsa")


def test_nep_413(shared_data: Path) -> None:
    vectors = json.loads((shared_data / "near" / "nep413" / "vectors.json").read_text())["vectors"]
    for vector in vectors:
        nonce = base64.b64decode(vector["nonce_base64"])
        fields = vector["message"], nonce, vector["recipient"], vector["callback_url"]
        signature = base64.b64decode(vector["signature_base64"]) if "signature_base64" in vector else bytes.fromhex(
            vector["signature_hex"])
        if "secret_key" in vector:
            node = Identity(vector["account_id"], ed25519_secret(vector["secret_key"]), PrivateKey())
            assert node.nep413(*fields) == signature
            public = node.public_key
        else:
            public = encode_key("ed25519", bytes.fromhex(vector["public_key_hex"]))
        assert nep413.verify(public, signature, *fields)
        assert not nep413.verify(public, signature, fields[0] + "!", *fields[1:])
        assert not nep413.verify(public, signature[:-1], *fields)
    assert len(vectors) == 3
