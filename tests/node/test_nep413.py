"""NEP-413 against published signatures and borsh written by hand."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import base58
import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.node.errors import NodeError
from nearfield.node.identity import Identity
from nearfield.node.keys import ed25519_secret
from nearfield.node.nep413 import payload_hash, verify


def vectors(near_data: Path) -> list[dict[str, Any]]:
    content = json.loads((near_data / "nep413" / "vectors.json").read_bytes())
    return list(content["vectors"])


def test_published_signatures_are_made(near_data: Path) -> None:
    made = 0
    for vector in vectors(near_data):
        if "secret_key" in vector:
            signer = Identity(vector["account_id"], ed25519_secret(vector["secret_key"]), PrivateKey())
            signature = signer.nep413(vector["message"], base64.b64decode(vector["nonce_base64"]), vector["recipient"],
                                      vector["callback_url"])
            assert base64.b64encode(signature).decode() == vector["signature_base64"]
            made += 1
    assert made == 2


def test_a_published_signature_of_another_library_verifies(near_data: Path) -> None:
    vector = next(v for v in vectors(near_data) if v["source"] == "near/intents")
    key = "ed25519:" + base58.b58encode(bytes.fromhex(vector["public_key_hex"])).decode()
    signature, nonce = bytes.fromhex(vector["signature_hex"]), base64.b64decode(vector["nonce_base64"])
    assert verify(key, signature, vector["message"], nonce, vector["recipient"], None)
    assert not verify(key, signature, vector["message"] + " ", nonce, vector["recipient"], None)
    assert not verify(key, signature, vector["message"], nonce, vector["recipient"], "")
    assert not verify(key, signature, vector["message"], nonce[:-1] + b"\1", vector["recipient"], None)


def test_the_example_of_the_standard() -> None:
    borsh = (b"\x9d\x01\x00\x80"  # 2**31 + 413
             b"\x02\x00\x00\x00hi" + bytes(range(32)) + b"\x09\x00\x00\x00myapp.com"
             b"\x01\x12\x00\x00\x00myapp.com/callback")
    assert payload_hash("hi", bytes(range(32)), "myapp.com", "myapp.com/callback") == hashlib.sha256(borsh).digest()


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(33)])
def test_nonces_have_32_bytes(identity: Identity, nonce: bytes) -> None:
    with pytest.raises(NodeError, match="32 bytes") as caught:
        identity.nep413("m", nonce, "r")
    assert caught.value.status == 400


@settings(deadline=None)
@given(st.text() | st.none() | st.just("ed25519:6E8sCci9badyRkXb3JoRpBj5p8C6Tw41ELDZoiihKEtp"), st.binary(max_size=80),
       st.text(st.characters()), st.binary(min_size=32, max_size=32))
def test_anything_else_is_false_or_refused(key: object, signature: bytes, message: str, nonce: bytes) -> None:
    try:
        assert verify(key, signature, message, nonce, "recipient.near") is False
    except NodeError as error:
        assert error.status == 400 and any("\ud800" <= c <= "\udfff" for c in message)
