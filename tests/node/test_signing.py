"""Signatures of answers: NEAR AI's golden vector, and wallets' libraries on the other side."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearfield.node.errors import NodeError
from nearfield.node.identity import Algorithm, Identity
from nearfield.node.signing import Signature, SignatureStore, sign_text, signed_text, verify_text

ALGORITHMS: list[Algorithm] = ["ecdsa", "ed25519"]
TEXTS = ["", "model:aa:bb", "模型/é:" + "0" * 64 + ":" + "1" * 64]


def test_golden_vector_of_near_ai(near_data: Path) -> None:
    vector = json.loads((near_data / "docs-chat-verification" / "vector.json").read_bytes())
    hashes = (sha256(vector[part].encode()).hexdigest() for part in ("request_body", "response_body"))
    signature = Signature(**vector["signature"])
    assert signed_text(json.loads(vector["request_body"])["model"], *hashes) == signature.text
    assert verify_text(signature)
    assert not verify_text(replace(signature, text=signature.text[:-1]))


@pytest.mark.parametrize("text", TEXTS)
def test_a_wallet_recovers_the_address(identity: Identity, text: str) -> None:
    signed = sign_text(identity, "ecdsa", text)
    assert len(signed.signature) == 132 and signed.signing_address == signed.signing_address.lower()
    wallet = Account.recover_message(encode_defunct(text=text), signature=signed.signature)
    assert wallet.lower() == signed.signing_address and verify_text(signed)
    assert signed.signature == "0x" + Account.sign_message(
        encode_defunct(text=text), identity.secp256k1.secret).signature.hex().removeprefix("0x")


def test_both_recovery_bytes_occur(identity: Identity) -> None:
    signatures = [sign_text(identity, "ecdsa", str(number)) for number in range(32)]
    assert {signed.signature[-2:] for signed in signatures} == {"1b", "1c"}
    assert all(verify_text(signed) and len(signed.signature) == 132 for signed in signatures)


@pytest.mark.parametrize("text", TEXTS)
def test_ed25519(identity: Identity, text: str) -> None:
    signed = sign_text(identity, "ed25519", text)
    assert len(signed.signature) == 128 and len(signed.signing_address) == 64
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed.signing_address))
    key.verify(bytes.fromhex(signed.signature), text.encode())
    assert verify_text(signed)


@pytest.mark.parametrize("algo", ALGORITHMS)
@settings(deadline=None)
@given(field=st.sampled_from(["text", "signature", "signing_address"]), data=st.data())
def test_one_changed_character_is_noticed(identity: Identity, algo: Algorithm, field: str, data: st.DataObject) -> None:
    signed = sign_text(identity, algo, "model:aa:bb")
    value = getattr(signed, field)
    at = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.sampled_from("0123456789abcdefxz ").filter(lambda c: c != value[at]))
    assert not verify_text(replace(signed, **{field: value[:at] + other + value[at + 1:]}))


def test_the_address_of_a_checksummed_wallet_is_the_same(identity: Identity) -> None:
    signed = sign_text(identity, "ecdsa", "t")
    assert verify_text(replace(signed, signing_address=Account.from_key(identity.secp256k1.secret).address))


WORDS = st.text(max_size=140) | st.integers() | st.none() | st.from_regex("(0x)?[0-9a-f]{64}([0-9a-f]{64})?(1b|1c)?")


@settings(deadline=None)
@given(st.text(), WORDS, WORDS, st.sampled_from(["ecdsa", "ed25519", "x", None]))
@example("t", "0x" + "00" * 64 + "1b", "0x" + "00" * 20, "ecdsa")
@example("t", "0x" + "ff" * 64 + "1c", "0x" + "00" * 20, "ecdsa")
@example("\ud800", "0x" + "11" * 64 + "1c", "0x" + "00" * 20, "ecdsa")
@example("t", "00" * 64, "00" * 32, "ed25519")
@example("t", "00" * 64, "0g", "ed25519")
def test_anything_malformed_is_false(text: str, signature: object, address: object, algo: object) -> None:
    assert verify_text(Signature(text, signature, address, algo)) is False  # type: ignore[arg-type]


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(store: SignatureStore, chat_id: str, algo: str | None = None) -> NodeError:
    with pytest.raises(NodeError) as caught:
        store.get(chat_id, algo)
    return caught.value


def test_store_signs_what_it_holds(identity: Identity) -> None:
    store = SignatureStore(identity)
    store.put("chatcmpl-1", "m:a:b")
    assert store.get("chatcmpl-1") == store.get("chatcmpl-1", "ecdsa") == sign_text(identity, "ecdsa", "m:a:b")
    assert store.get("chatcmpl-1", "ed25519").json() == {
        "text": "m:a:b", "signature": identity.sign(b"m:a:b").hex(), "signing_algo": "ed25519",
        "signing_address": identity.signing_address("ed25519")}
    assert refusal(store, "chatcmpl-1", "rsa").status == 400


def test_store_forgets(identity: Identity) -> None:
    clock = Clock()
    store = SignatureStore(identity, ttl=1200, clock=clock)
    store.put("a", "a")
    clock.now = 600
    store.put("b", "b")
    clock.now = 1199
    assert store.get("a").text == "a"
    clock.now = 1200
    assert (refusal(store, "a").status, str(refusal(store, "a"))) == (404, "Chat id not found or expired")
    assert store.get("b").text == "b" and len(store) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5)), max_size=40), st.integers(1, 4))
def test_store_is_the_latest_texts(puts: list[tuple[str, int]], capacity: int) -> None:
    clock, model = Clock(), list[tuple[str, str, float]]()
    store = SignatureStore(Identity("a.near", None, PrivateKey(bytes([7]) * 32)),  # type: ignore[arg-type]
                           ttl=10, capacity=capacity, clock=clock)
    for number, (name, wait) in enumerate(puts):
        clock.now += wait
        store.put(name, str(number))
        model = [entry for entry in model if entry[0] != name] + [(name, str(number), clock.now + 10)]
        model = [entry for entry in model if entry[2] > clock.now][-capacity:]
        assert len(store) == len(model)
    for name in "abcdefgh":
        kept = [text for stored, text, _ in model if stored == name]
        assert [store.get(name).text] == kept if kept else refusal(store, name).status == 404
