"""What NEAR AI's own Python SDK demands, over real HTTP: in one process with the server, and in front of it."""

from collections.abc import Iterator
from typing import Literal

import httpx
import pytest

from nearfield.node.usage import verify_usage
from tests.doubles import SENTENCE
from tests.node.near_client import NearClient
from tests.node.node_serving import ServedNode, served_node

HI = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Grüß Gott ✓"}]
WAYS = [("ed25519", False), ("ed25519", True), ("ecdsa", False)]


@pytest.fixture(scope="module", params=["inside", "front"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    with served_node(tmp_path_factory.mktemp("node"), behind=request.param) as served:
        yield served


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize(("algorithm", "encrypt"), WAYS, ids=["ed25519", "ed25519-encrypted", "ecdsa"])
def test_the_sdk_is_content(node: ServedNode, algorithm: Literal["ed25519", "ecdsa"], encrypt: bool,
                            stream: bool) -> None:
    client = NearClient(node.http, node.model, algorithm, encrypt=encrypt)
    got = client.chat(HI, stream=stream, max_tokens=200)
    assert got.text == SENTENCE
    assert (b'"content":"H' in got.body) is not encrypt
    charge = node.node.ledger.response(got.id)
    assert charge is not None and charge.usage.completion_tokens == got.usage["completion_tokens"]
    assert charge.usage.prompt_tokens == got.usage["prompt_tokens"]
    assert charge.usage.cached_tokens == got.usage["prompt_tokens_details"]["cached_tokens"]


def test_an_encrypted_prompt_reaches_the_engine_in_clear(node: ServedNode) -> None:
    ask = [{"role": "user", "content": "Say exactly this"}]
    plain = NearClient(node.http, node.model, "ed25519").chat(ask, stream=False)
    sealed = NearClient(node.http, node.model, "ed25519", encrypt=True).chat(ask, stream=False)
    assert plain.usage["prompt_tokens"] == sealed.usage["prompt_tokens"]


def test_usage_is_signed(node: ServedNode) -> None:
    got = NearClient(node.http, node.model, "ed25519").chat(HI, stream=True)
    body = node.http.get(f"/v1/usage/{got.id}").json()
    charge = verify_usage(body, node.http.get("/").json()["public_key"])
    assert charge.usage.id == got.id and charge.usage.completion_tokens == got.usage["completion_tokens"]
    assert node.http.get("/v1/usage/chatcmpl-other").status_code == 404


def test_who_the_node_is(node: ServedNode) -> None:
    assert node.http.get("/").json()["tee"] == "none"
    assert node.http.get("/healthz").status_code == node.http.get("/health").status_code == 200
    models = node.http.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in models] == [node.model]
    assert models[0]["pricing"] == {"prompt": "0", "completion": "0", "input_cache_read": "0"}
    assert "vllm:num_requests_running" in node.http.get("/v1/metrics").text
    assert node.http.get("/v1/loads").json()["loads"]


def test_request_ids_are_echoed(node: ServedNode) -> None:
    for path in ("/v1/models", "/v1/signature/none", "/nowhere"):
        reply = node.http.get(path, headers={"X-Request-Id": "id-1"})
        assert reply.headers.get_list("x-request-id") == ["id-1"]
    assert node.http.get("/").headers["x-request-id"]


@pytest.mark.parametrize(("path", "status", "message"), [
    ("/v1/signature/none", 404, "Chat id not found or expired"),
    ("/v1/signature/none?signing_algo=rsa", 404, "Chat id not found or expired"),
    ("/v1/attestation/report?nonce=xx", 400, "Nonce must be hex-encoded"),
    ("/v1/attestation/report?nonce=ab", 400, "Nonce must be 32 bytes"),
    ("/v1/attestation/report?signing_algo=rsa", 400, "Invalid signing algorithm. Must be 'ed25519' or 'ecdsa'"),
    ("/v1/attestation/report?signing_address=0x00", 404, "Signing address not found on this server"),
    ("/v1/attestation/report?nonce=ab&nonce=cd", 400, "the parameter 'nonce' stands twice; send it once"),
])
def test_errors_are_near_ais(node: ServedNode, path: str, status: int, message: str) -> None:
    reply = node.http.get(path)
    kind = "not_found" if status == 404 else "bad_request"
    assert reply.status_code == status
    assert reply.json() == {"error": {"message": message, "type": kind, "param": None, "code": None}}


def test_receipts_of_an_engine_that_gives_none_are_refused_with_a_reason(node: ServedNode) -> None:
    reply = node.http.get("/v1/receipt/some")
    assert reply.status_code == 404 and "receipts" in reply.json()["error"]["message"]
    body = {"model": node.model, "messages": HI}
    reply = node.http.post("/v1/chat/completions", json=body, headers={"X-Receipt-Nonce": "ab" * 32})
    assert reply.status_code == 400 and "receipt" in reply.json()["error"]["message"]


def test_keys_are_asked_for_once_and_open_paths_stay_open(tmp_path_factory: pytest.TempPathFactory) -> None:
    with served_node(tmp_path_factory.mktemp("node"), keys=["sk-right"]) as node:
        for path in ("/v1/models", "/v1/attestation/report", "/", "/health", "/v1/metrics", "/v1/loads"):
            assert node.http.get(path).status_code == 200, path
        body = {"model": node.model, "messages": HI}
        for headers in ({}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": "sk-right"}):
            for reply in (node.http.get("/v1/signature/x", headers=headers),
                          node.http.post("/v1/chat/completions", json=body, headers=headers),
                          node.http.post("/tokenize", json={"prompt": "a"}, headers=headers)):
                assert reply.status_code == 401 and reply.json()["error"]["type"] == "unauthorized"
        with httpx.Client(base_url=node.url, headers={"Authorization": "Bearer sk-right"}) as http:
            assert NearClient(http, node.model, "ecdsa").chat(HI, stream=True).text == SENTENCE
