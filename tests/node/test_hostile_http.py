"""What the node answers to whatever is sent to it: 4xx with a reason, never a 500, never a signature; and no secret
in anything that it emits."""

import base64
import json
import logging
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearfield.node.config import parse_config
from nearfield.node.vouchers import encode_state
from tests.node.near_client import NearClient
from tests.node.node_serving import ServedNode, served_node

HI = [{"role": "user", "content": "Hi"}]
PAID = {"payment": "prepaid", "prices": {"prompt": "1", "completion": "2"},
        "facilitator_url": "http://127.0.0.1:9/x402"}
NAMES = ("X-Signing-Algo", "X-Client-Pub-Key", "X-Encryption-Version", "X-Encrypt-All-Fields", "X-Model-Pub-Key",
         "X-Payments-Signature", "PAYMENT-SIGNATURE", "X-Receipt-Nonce", "X-Receipt-Node-Nonce", "X-Receipt-Event",
         "Authorization", "X-Request-Hash", "X-Request-Id", "Content-Type")
LATIN = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=80)
LIKELY = st.sampled_from(["", "0", "1", "2", "true", "ed25519", "ecdsa", "ab" * 32, "04" + "ab" * 64, "ab" * 64,
                          "00" * 32, "Bearer " + "k" * 40, "Bearer",
                          base64.b64encode(encode_state("c", 1) + bytes(65)).decode()])


@pytest.fixture(scope="module", params=["inside", "front"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with served_node(tmp_path_factory.mktemp("node"), behind=request.param) as served:
        yield served


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with served_node(tmp_path_factory.mktemp("paid"), config=parse_config(PAID)) as served:
        yield served


def refused(reply: httpx.Response, node: ServedNode, before: int) -> None:
    assert 400 <= reply.status_code < 500, (reply.status_code, reply.text)
    error = reply.json()["error"]
    assert error["message"] and error["type"]
    assert len(node.node.parts.signatures) == before


def judged(reply: httpx.Response, node: ServedNode, before: int) -> None:
    """Refused with a reason, or answered and signed."""
    if reply.status_code != 200:
        refused(reply, node, before)
        return
    assert node.http.get(f"/v1/signature/{reply.json()['id']}").status_code == 200


@given(headers=st.dictionaries(st.sampled_from(NAMES), LATIN | LIKELY, max_size=5))
@settings(deadline=None, max_examples=60)
def test_any_headers_are_answered_or_refused(node: ServedNode, headers: dict[str, str]) -> None:
    before = len(node.node.parts.signatures)
    given = {"Content-Type": "application/json"} | headers
    lines = [(name.encode(), text.encode("latin-1")) for name, text in given.items()]
    body = json.dumps({"model": node.model, "messages": HI, "max_tokens": 2}).encode()
    judged(node.http.post("/v1/chat/completions", content=body, headers=lines), node, before)


@given(data=st.binary(max_size=120) | st.sampled_from([b"", b"{}", b"[]", b'{"model":', b"\xff"]),
       path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/pc/validate", "/v1/credits", "/tokenize"]))
@settings(deadline=None, max_examples=60)
def test_any_body_is_refused(paid: ServedNode, data: bytes, path: str) -> None:
    before = len(paid.node.parts.signatures)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + "k" * 40}
    reply = paid.http.post(path, content=data, headers=headers)
    refused(reply, paid, before)


JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 2**70) | st.text("ab1", max_size=4),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner))


FIELDS = ("messages", "stream", "stream_options", "max_tokens", "n", "prompt", "tools", "near_headers", "logprobs",
          "best_of", "request_id", "rid", "n_predict", "documents")


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON))
@settings(deadline=None, max_examples=60)
def test_any_field_is_answered_or_refused(paid: ServedNode, fields: dict[str, Any]) -> None:
    before = len(paid.node.parts.signatures)
    headers = {"Authorization": "Bearer " + "k" * 40}
    refused(paid.http.post("/v1/chat/completions", json={"model": paid.model, **fields}, headers=headers), paid, before)


ROOTS = ("/", "/v1/", "//", "/v1/models", "/v1/models/", "/metrics", "/v1/metrics", "/tokenize", "/detokenize",
         "/health", "/ready", "/version", "/v1/loads", "/v1/signature/", "/v1/usage/", "/v1/receipt/",
         "/v1/attestation/report", "/v1/verify/selftest", "/pc/state/", "/v1/credits", "/v1/chat/completions")
TAILS = st.text(max_size=12).map(lambda text: quote(text, safe="/:@;,")) | st.sampled_from(
    ["%00", "%ff", "%2e%2e/x", "..", "a%2Fb", "%0d%0aX:1", "LONG", "%25", "[", "%"])


@given(method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "FOO"]), root=st.sampled_from(ROOTS),
       tail=st.just("") | TAILS, query=st.none() | TAILS)
@example("GET", "/v1/models/", "%00", None)
@example("GET", "/v1/models/", "LONG", None)
@example("GET", "/metrics", "", "LONG")
@example("POST", "/tokenize", "", "LONG")
@example("POST", "/v1/chat/completions", "", "LONG")
@settings(deadline=None, max_examples=150)
def test_any_path_and_query_are_answered_or_refused(node: ServedNode, method: str, root: str, tail: str,
                                                    query: str | None) -> None:
    body = json.dumps({"model": node.model, "messages": HI, "max_tokens": 1}) if method == "POST" else None
    connection = HTTPConnection(node.url.removeprefix("http://"), timeout=30)
    target = (root + tail + ("" if query is None else f"?{query}")).replace("LONG", "a" * 66_000, 1)
    connection.request(method, target, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    assert reply.status < 500, (reply.status, data)
    if reply.status >= 400 and method != "HEAD":
        assert json.loads(data)["error"]["message"]


@given(cut=st.integers(0, 200), flip=st.integers(0, 200), header=st.sampled_from(["ed25519", "ecdsa"]),
       version=st.sampled_from(["1", "2", "3"]))
@settings(deadline=None, max_examples=40)
def test_damaged_ciphertext_is_refused_alike(node: ServedNode, cut: int, flip: int, header: str, version: str) -> None:
    client = NearClient(node.http, node.model, "ed25519", encrypt=True)
    sealed = client._seal("a secret of the client")
    damaged = bytearray(bytes.fromhex(sealed)[: cut or None])
    if damaged:
        damaged[flip % len(damaged)] ^= 1
    key = "ab" * (32 if header == "ed25519" else 64)
    body = {"model": node.model, "messages": [{"role": "user", "content": damaged.hex() or "00"}]}
    before = len(node.node.parts.signatures)
    reply = node.http.post("/v1/chat/completions", json=body, headers={
        "X-Signing-Algo": header, "X-Client-Pub-Key": key, "X-Encryption-Version": version})
    refused(reply, node, before)


def test_headers_that_stand_twice_are_refused(node: ServedNode) -> None:
    before = len(node.node.parts.signatures)
    for name in ("X-Payments-Signature", "X-Client-Pub-Key", "X-Receipt-Nonce"):
        lines = [("Content-Type", "application/json"), (name, "a"), (name, "b")]
        body = json.dumps({"model": node.model, "messages": HI})
        reply = node.http.post("/v1/chat/completions", content=body, headers=lines)
        refused(reply, node, before)
        assert name.lower() in reply.json()["error"]["message"]


def test_receipts_and_encryption_exclude_each_other(node: ServedNode) -> None:
    client = NearClient(node.http, node.model, "ed25519", encrypt=True)
    with pytest.raises(AssertionError, match="in the clear"):
        client.chat(HI, stream=False, headers={"X-Receipt-Nonce": "ab" * 32})


def test_the_engines_words_do_not_quote_what_was_encrypted(node: ServedNode) -> None:
    client = NearClient(node.http, node.model, "ed25519", encrypt=True)
    with pytest.raises(AssertionError) as caught:
        client.chat(HI, stream=False, temperature=99, stop="hush" * 100)
    assert "withheld" in str(caught.value) and "hush" not in str(caught.value)


def test_a_body_that_is_too_large_is_refused(paid: ServedNode) -> None:
    reply = paid.http.post("/pc/validate", content=b" " * (70 << 10), headers={"Content-Type": "application/json"})
    assert reply.status_code in (404, 413)
    reply = paid.http.post("/v1/credits", content=b" " * (70 << 10), headers={"Content-Type": "application/json"})
    assert reply.status_code == 413 and reply.json()["error"]["type"] == "payload_too_large"


def test_what_is_owed_is_said(paid: ServedNode) -> None:
    body = {"model": paid.model, "messages": HI}
    without = paid.http.post("/v1/chat/completions", json=body)
    empty = paid.http.post("/v1/chat/completions", json=body, headers={"Authorization": "Bearer " + "k" * 40})
    for reply in (without, empty):
        assert reply.status_code == 402 and reply.json()["error"]["type"] == "insufficient_credits"
        assert "dollars" in reply.json()["error"]["message"] and "/v1/credits" in reply.json()["error"]["message"]
    offer = paid.http.post("/v1/credits", headers={"Authorization": "Bearer " + "k" * 40})
    assert offer.status_code == 402
    required = json.loads(base64.b64decode(offer.headers["payment-required"]))
    assert required["accepts"][0]["payTo"] == paid.node.identity.account_id
    assert required["resource"]["url"] == f"{paid.url}/v1/credits"


def test_no_secret_is_in_anything_that_is_emitted(tmp_path_factory: pytest.TempPathFactory,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    """Keys of both sides, prompts and answers: not in logs, errors, metrics, reports, repr, or the ledger's file."""
    caplog.set_level(logging.DEBUG)
    home = tmp_path_factory.mktemp("secrets")
    emitted: list[str] = []
    with served_node(home, config=parse_config({"prices": {"prompt": "1", "completion": "2"}}),
                     keys=["sk-the-client-key"]) as node:
        node.http.headers["Authorization"] = "Bearer sk-the-client-key"
        ask = [{"role": "user", "content": "my-own-prompt"}]
        for encrypt in (False, True):
            client = NearClient(node.http, node.model, "ed25519", encrypt=encrypt)
            client.chat(ask, stream=True)
        body = {"model": node.model, "messages": ask}
        for fields, headers in (({}, {"X-Client-Pub-Key": "my-own-prompt"}), ({"max_tokens": "my-own-prompt"}, {}),
                                ({"near_headers": {"x-payments-signature": "my-own-prompt"}}, {"X-Receipt-Nonce": "x"}),
                                ({"model": "other"}, {"Authorization": "Bearer sk-the-wrong-key"})):
            emitted.append(node.http.post("/v1/chat/completions", json=body | fields, headers=headers).text)
        for path in ("/", "/metrics", "/v1/metrics", "/v1/models", "/v1/attestation/report", "/v1/loads"):
            emitted.append(node.http.get(path).text)
        emitted += [repr(node.node), str(node.node.identity)]
        keys = [json.loads((home / name).read_text())["private_key"] for name in ("ed25519.json", "secp256k1.json")]
        raw = [bytes(node.node.identity.ed25519).hex(), node.node.identity.secp256k1.secret.hex()]
    emitted.append(caplog.text)
    stored = b"".join(path.read_bytes() for path in home.glob("ledger*"))
    assert stored
    secrets = [*keys, *(key.partition(":")[2] for key in keys), *raw, "my-own-prompt", "sk-the-client-key",
               "sk-the-wrong-key", "Hello from the engine double"]
    for secret in secrets:
        assert not [text for text in emitted if secret in text]
        assert secret.encode() not in stored
