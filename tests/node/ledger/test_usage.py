"""Usage as engines say it, and the node's signature under it, read back by code that shares nothing with it."""

import json
from typing import Any

import base58
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from nearfield.node.errors import NodeError
from nearfield.node.identity import Identity
from nearfield.node.usage import MAX_TOKENS, Charge, Usage, parse_usage, sign_usage, verify_usage
from tests.node.ledger.doubles import node_identity

OPENAI = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
          "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
          "completion_tokens_details": {"reasoning_tokens": 0}}
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                    max_leaves=4)
CHARGE = Charge(Usage("chatcmpl-1", "org/model", 19, 16, 10), 4711, 1_790_000_000)


@pytest.fixture
def identity() -> Identity:
    return node_identity()


def test_what_openai_documents() -> None:
    assert parse_usage("chatcmpl-1", "m", OPENAI) == Usage("chatcmpl-1", "m", 19, 16, 10)


@pytest.mark.parametrize("details", [{}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {}},
                                     {"prompt_tokens_details": {"cached_tokens": None}}])
def test_an_engine_without_a_cache(details: dict[str, Any]) -> None:
    assert parse_usage("a", "m", {"prompt_tokens": 1, "completion_tokens": 0, **details}).cached_tokens == 0


@pytest.mark.parametrize(("change", "name"), [
    ({"prompt_tokens": None}, "prompt_tokens"), ({"completion_tokens": -1}, "completion_tokens"),
    ({"completion_tokens": True}, "completion_tokens"), ({"prompt_tokens": 19.0}, "prompt_tokens"),
    ({"prompt_tokens": "19"}, "prompt_tokens"), ({"completion_tokens": MAX_TOKENS + 1}, "completion_tokens"),
    ({"prompt_tokens_details": {"cached_tokens": 20}}, "more cached"), ({"prompt_tokens_details": 3}, "details"),
])
def test_what_can_not_be_is_refused(change: dict[str, Any], name: str) -> None:
    with pytest.raises(NodeError, match=name) as caught:
        parse_usage("a", "m", {**OPENAI, **change})
    assert caught.value.status == 502


@given(st.dictionaries(st.sampled_from(list(OPENAI)), JSON), st.text(max_size=4))
def test_any_json_is_usage_or_an_error(usage: dict[str, Any], name: str) -> None:
    try:
        found = parse_usage(name, "m", usage)
    except NodeError as error:
        assert error.status == 502
    else:
        assert 0 <= found.cached_tokens <= found.prompt_tokens and found.completion_tokens >= 0


def test_the_signed_text_is_as_documented(identity: Identity) -> None:
    signed = sign_usage(identity, CHARGE)
    assert signed["text"] == (
        'nearfield-usage-v1\n{"cached_tokens":16,"completion_tokens":10,"cost_nano":4711,"created":1790000000,'
        '"id":"chatcmpl-1","model":"org/model","prompt_tokens":19}')
    key = Ed25519PublicKey.from_public_bytes(base58.b58decode(signed["public_key"].removeprefix("ed25519:")))
    signature = base58.b58decode(signed["signature"].removeprefix("ed25519:"))
    key.verify(signature, signed["text"].encode())
    with pytest.raises(InvalidSignature):
        key.verify(signature, signed["text"].encode() + b" ")


@given(st.builds(Usage, *[st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9)] * 2,
                 st.integers(10, 99), st.integers(0, 10), st.integers(0, 99)), st.integers(0, 2**63 - 1))
def test_what_is_signed_is_read_back(usage: Usage, cost: int) -> None:
    identity = node_identity()
    charge = Charge(usage, cost, 1)
    assert verify_usage(json.loads(json.dumps(sign_usage(identity, charge))), identity.public_key) == charge


@pytest.mark.parametrize("change", [
    {"text": None}, {"text": "x"}, {"text": sign_usage(node_identity(), CHARGE)["text"].replace("19", "18")},
    {"signature": "ed25519:" + base58.b58encode(bytes(64)).decode()}, {"signature": None}, {"signature": "ed25519:0"},
    {"public_key": "ed25519:" + base58.b58encode(bytes(32)).decode()}, {"public_key": None}])
def test_what_the_node_did_not_sign_is_refused(identity: Identity, change: dict[str, Any]) -> None:
    with pytest.raises(NodeError) as caught:
        verify_usage({**sign_usage(identity, CHARGE), **change}, identity.public_key)
    assert caught.value.status == 400


@given(JSON | st.text())
def test_a_signed_text_that_is_no_usage_is_refused(line: Any) -> None:
    identity = node_identity()
    text = "nearfield-usage-v1\n" + (line if isinstance(line, str) else json.dumps(line))
    signature = "ed25519:" + base58.b58encode(identity.sign(text.encode("utf-8", "replace"))).decode()
    with pytest.raises(NodeError) as caught:
        verify_usage({"text": text, "signature": signature, "public_key": identity.public_key}, identity.public_key)
    assert caught.value.status == 400
