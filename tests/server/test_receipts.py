"""Receipts over HTTP: who asks gets one, in the stream and by id; every malformed header is refused by name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfield.core.config import EngineConfig
from nearfield.engine.build import load_engine
from nearfield.engine.loop import EngineLoop
from nearfield.kernels import cpu
from nearfield.proof.disclosure import from_json
from nearfield.proof.keys import verify_signature
from nearfield.proof.opening import open_notary
from tests.proof.signer import NodeKey
from tests.server.serving import Serving, events, serving

if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)

ASK = {"X-Receipt-Nonce": "ab" * 32}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server of the pocket model that gives receipts."""
    loaded = load_engine(None, EngineConfig(dtype="fp32", kv_memory=16 << 20))
    notary = open_notary(loaded, NodeKey(), tmp_path_factory.mktemp("node"))
    loop = EngineLoop(loaded.engine)
    loop.start()
    with serving(loaded, loop, receipts=notary) as running:
        yield running
    notary.close()


def post(node: Serving, headers: dict[str, str], **fields: Any) -> Any:
    body = {"model": node.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8} | fields
    return node.http.post("/v1/chat/completions", json=body, headers=headers)


def test_a_receipt_is_given_to_who_asks(node: Serving) -> None:
    reply = post(node, ASK, n=2).json()
    found = node.http.get(f"/v1/receipt/{reply['id']}").json()
    assert found["id"] == reply["id"]
    receipts = [from_json(one) for one in found["receipts"]]
    assert [one.signed.receipt.index for one in receipts] == [0, 1]
    assert all(verify_signature(one.signed) for one in receipts)
    assert all(one.signed.receipt.client_nonce.hex() == "ab" * 32 for one in receipts)
    assert sum(len(one.output_ids) for one in receipts) == reply["usage"]["completion_tokens"]
    assert receipts[1].signed.receipt.previous == receipts[0].signed.receipt.digest()


def test_the_stream_holds_it_where_asked(node: Serving) -> None:
    streamed = events(post(node, ASK | {"X-Receipt-Event": "1"}, stream=True,
                           stream_options={"include_usage": True}))
    last = streamed[-1]
    assert last["choices"] == [] and streamed[-2]["usage"]["completion_tokens"] == 8
    assert last["receipts"] == node.http.get(f"/v1/receipt/{last['id']}").json()["receipts"]


def test_a_stream_without_the_header_has_none(node: Serving) -> None:
    streamed = events(post(node, ASK, stream=True))
    assert not any("receipts" in event for event in streamed)
    assert node.http.get(f"/v1/receipt/{streamed[0]['id']}").status_code == 200


def test_who_does_not_ask_gets_none(node: Serving) -> None:
    reply = post(node, {}).json()
    missing = node.http.get(f"/v1/receipt/{reply['id']}")
    assert missing.status_code == 404 and missing.json()["error"]["message"] == "Receipt not found or expired"


def test_the_nodes_nonce_is_good_once(node: Serving) -> None:
    given = node.http.get("/v1/receipt/nonce").json()
    ask = ASK | {"X-Receipt-Node-Nonce": given["nonce"]}
    reply = post(node, ask).json()
    found = node.http.get(f"/v1/receipt/{reply['id']}").json()["receipts"][0]
    assert found["fields"]["node_nonce"] == given["nonce"] and given["expires_in"] > 0
    again = post(node, ask)
    assert again.status_code == 400 and "was used" in again.json()["error"]["message"]


@pytest.mark.parametrize("headers", [
    {"X-Receipt-Nonce": ""}, {"X-Receipt-Nonce": "ab" * 31}, {"X-Receipt-Nonce": "zz" * 32},
    {"X-Receipt-Nonce": "ab" * 33}, {"X-Receipt-Event": "1"}, {"X-Receipt-Node-Nonce": "ab" * 32},
    ASK | {"X-Receipt-Event": "yes"}, ASK | {"X-Receipt-Node-Nonce": "ab"},
    ASK | {"X-Receipt-Node-Nonce": "cd" * 32}], ids=json.dumps)
def test_malformed_headers_are_refused_by_name(node: Serving, headers: dict[str, str]) -> None:
    reply = post(node, headers)
    assert reply.status_code == 400 and "X-Receipt" in reply.json()["error"]["message"]


def test_the_selftest_tells_the_profile(node: Serving) -> None:
    told = node.http.get("/v1/verify/selftest").json()
    assert told["status"] == "pass" and told["profile"] == "cpu-fp32-v2"


@pytest.mark.parametrize("path", ["/v1/receipt/nonce", "/v1/receipt/x", "/v1/verify/selftest"])
def test_a_server_that_is_no_node_says_so(fake: Serving, path: str) -> None:
    reply = fake.http.get(path)
    assert reply.status_code == 404 and "no receipts" in reply.json()["error"]["message"]
    assert post(fake, ASK).status_code == 400


def test_the_chain_survives_the_process(tmp_path: Path) -> None:
    loaded = load_engine(None, EngineConfig(dtype="fp32", kv_memory=16 << 20))
    seen = []
    for _ in range(2):
        notary = open_notary(loaded, NodeKey(), tmp_path)
        loop = EngineLoop(loaded.engine)
        loop.start()
        with serving(loaded, loop, receipts=notary) as node:
            reply = post(node, ASK).json()
            seen.append(from_json(node.http.get(f"/v1/receipt/{reply['id']}").json()["receipts"][0]).signed.receipt)
        notary.close()
    assert [one.number for one in seen] == [1, 2] and seen[1].previous == seen[0].digest()
