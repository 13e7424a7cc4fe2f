"""The encoding of receipts: one for each, written here by hand as well; everything else is refused with a reason."""

import base64
import json
import struct
from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfield.core.request import SamplingParams
from nearfield.core.types import FinishReason
from nearfield.proof.disclosure import Disclosure, from_json, read_receipts
from nearfield.proof.errors import ReceiptError
from nearfield.proof.keys import key_bytes, key_text, verify_signature
from nearfield.proof.receipt import LimitSource, Receipt, SeedSource, SignedReceipt, decode, sign, signed_message
from nearfield.proof.sampler_spec import canonical, read_sampler, sampler_hash, sampler_json
from tests.proof.signer import NodeKey

KEY = NodeKey()
DIGESTS = {name: bytes([i]) * 32 for i, name in enumerate((
    "model_root", "tokenizer", "prompt_hash", "sampler_hash", "output_hash", "state_root", "sketch", "client_nonce",
    "node_nonce", "previous"))}
RECEIPT = Receipt(
    response_id="chatcmpl-1", index=2, sample_index=1, profile="cpu-w4a8-v1", **DIGESTS, seed=2**64 - 1,
    seed_source=SeedSource.NONCES, limit_source=LimitSource.PAYMENT, prompt_tokens=9, cached_tokens=3,
    completion_tokens=4, finish_reason=FinishReason.LENGTH, number=7, created=1_800_000_000,
    public_key=key_bytes(KEY.public_key))
SAMPLER = canonical(SamplingParams(temperature=0.7, logit_bias={3: 1.0}, stop=("a", "é"), stop_token_ids=(4,)), 4)
OPEN = Disclosure(sign(RECEIPT, KEY), SAMPLER, (1, 2, 3, 4), (bytes(32),))


def test_the_layout() -> None:
    """As docs/receipts.md has it, written without the code under test."""
    d, key = DIGESTS, key_bytes(KEY.public_key)
    by_hand = (b"\x02" + b"\x0achatcmpl-1" + struct.pack(">II", 2, 1) + b"\x0bcpu-w4a8-v1"
               + d["model_root"] + d["tokenizer"] + d["prompt_hash"] + d["sampler_hash"] + d["output_hash"]
               + d["state_root"] + d["sketch"] + d["client_nonce"] + d["node_nonce"] + b"\xff" * 8 + b"\x00\x01"
               + struct.pack(">III", 9, 3, 4) + b"\x01" + struct.pack(">Q", 7) + d["previous"]
               + struct.pack(">Q", 1_800_000_000) + key)
    assert RECEIPT.encode() == by_hand
    assert RECEIPT.digest() == sha256(b"nearfield receipt v1\0" + by_hand).digest()


def test_the_signature_is_ed25519_over_the_named_digest() -> None:
    signed = sign(RECEIPT, KEY)
    public = Ed25519PublicKey.from_public_bytes(RECEIPT.public_key)
    public.verify(signed.signature, b"nearfield receipt v1\n" + RECEIPT.digest())
    assert verify_signature(signed)
    for wrong in (replace(signed, signature=bytes(64)), replace(signed, receipt=replace(RECEIPT, number=8)),
                  SignedReceipt(replace(RECEIPT, public_key=key_bytes(NodeKey(2).public_key)), signed.signature),
                  SignedReceipt(replace(RECEIPT, public_key=bytes(32)), signed.signature)):
        assert not verify_signature(wrong)
    with pytest.raises(InvalidSignature):
        public.verify(signed.signature, signed_message(replace(RECEIPT, created=0)))


def test_what_is_written_is_read() -> None:
    signed = sign(RECEIPT, KEY)
    assert decode(signed.encode()) == signed
    assert from_json(json.loads(json.dumps(OPEN.to_json()))) == OPEN
    assert read_receipts(json.dumps(OPEN.to_json())) == [OPEN]
    assert read_receipts(json.dumps({"id": "x", "receipts": [OPEN.to_json()] * 2})) == [OPEN, OPEN]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 600), st.binary(max_size=6), st.sampled_from(["set", "insert", "cut"]))
def test_one_encoding_only(place: int, other: bytes, how: str) -> None:
    """Changed bytes are another receipt, which encodes to them, or none."""
    data = sign(RECEIPT, KEY).encode()
    tail = {"set": data[place + len(other):], "insert": data[place:], "cut": b""}[how]
    changed = data[:place] + other + tail
    try:
        assert decode(changed).encode() == changed
    except ReceiptError:
        return


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=700))
def test_any_bytes_are_a_receipt_or_refused(data: bytes) -> None:
    try:
        assert decode(b"\x02" + data).encode() == b"\x02" + data
    except ReceiptError:
        return


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
                    max_leaves=10)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["receipt", "fields", "sampler", "output_ids", "state_digests", "sketches", "more"]), JSON)
def test_any_field_is_read_or_refused(name: str, value: Any) -> None:
    changed = OPEN.to_json() | {name: value}
    try:
        assert from_json(changed).to_json() == {key: one for key, one in changed.items() if one != ""}
    except ReceiptError:
        return


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(sampler_json(SAMPLER))), JSON)
def test_any_sampler_is_read_or_refused(name: str, value: Any) -> None:
    changed = sampler_json(SAMPLER) | {name: value}
    try:
        assert sampler_json(read_sampler(changed)) == changed
    except ReceiptError:
        return


@settings(max_examples=200, deadline=None)
@given(JSON | st.text())
def test_any_file_is_read_or_refused(value: Any) -> None:
    with pytest.raises(ReceiptError):
        read_receipts(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize("field", [field.name for field in fields(Receipt)])
def test_readable_fields_must_agree(field: str) -> None:
    body = OPEN.to_json()
    value = body["fields"][field]
    body["fields"][field] = value + 1 if isinstance(value, int) else value[:-1]
    with pytest.raises(ReceiptError, match="fields"):
        from_json(body)


@pytest.mark.parametrize("field, value", [
    ("response_id", ""), ("response_id", "a b"), ("response_id", "x" * 129), ("response_id", "é"), ("index", -1),
    ("index", 2**32), ("seed", 2**64), ("seed", True), ("model_root", b"short"), ("model_root", "ab"),
    ("finish_reason", FinishReason.ABORT), ("seed_source", "nonces"), ("public_key", bytes(33)), ("number", 1.0)])
def test_a_field_out_of_range_is_named(field: str, value: object) -> None:
    if field == "seed_source":   # a text that equals the choice is none
        with pytest.raises(ReceiptError, match=field):
            replace(RECEIPT, seed_source=value)   # type: ignore[arg-type]
        return
    with pytest.raises(ReceiptError, match=field):
        replace(RECEIPT, **{field: value})   # type: ignore[arg-type]


def test_base64_is_canonical() -> None:
    body = OPEN.to_json()
    data = base64.b64decode(body["receipt"])
    for wrong in (body["receipt"] + "\n", body["receipt"].rstrip("=") + "====", base64.b64encode(data + b"\0").decode(),
                  "é" * 8):
        with pytest.raises(ReceiptError):
            from_json(body | {"receipt": wrong})


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:" + "1" * 32, "ed25519:0OIl", "secp256k1:" + "2" * 44,
                                  KEY.public_key[:-1], " " + KEY.public_key, KEY.public_key + "\n"])
def test_keys_in_other_forms_are_refused(text: str) -> None:
    try:
        assert key_text(key_bytes(text)) == text
    except ReceiptError:
        return


def test_equal_sampling_has_one_hash_and_other_sampling_another() -> None:
    base = SamplingParams(temperature=1, top_k=-1, logit_bias={9: 1, 3: 2}, seed=4, logprobs=2, n=3)
    same = SamplingParams(temperature=1.0, top_k=0, logit_bias={3: 2.0, 9: 1.0}, presence_penalty=-0.0)
    assert sampler_hash(canonical(base, 16)) == sampler_hash(canonical(same, 16))
    others: list[dict[str, Any]] = [
        {"temperature": 0.9999999999999999}, {"top_p": 0.95}, {"top_k": 1}, {"min_p": 1e-9}, {"min_tokens": 1},
        {"repetition_penalty": 1.0000001}, {"presence_penalty": 0.1}, {"frequency_penalty": 0.1},
        {"logit_bias": {3: 2.0}}, {"stop": ("a",)}, {"stop": ("a", "b")}, {"stop": ("ab",)}, {"stop_token_ids": (1,)},
        {"ignore_eos": True}, {"include_stop_str_in_output": True}, {"skip_special_tokens": False}]
    hashes = {sampler_hash(canonical(replace(same, **other), 16)) for other in others}
    assert len(hashes | {sampler_hash(canonical(same, 16)), sampler_hash(canonical(same, 17))}) == len(others) + 2
