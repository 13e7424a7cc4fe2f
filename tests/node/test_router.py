"""The real router `smg` over two nodes: what docs/many-nodes.md says passes does, and a death shows."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from nearfield.kernels import cpu
from nearfield.node.accounts import key_payer
from nearfield.node.build import open_ledger
from nearfield.node.config import NodeConfig
from nearfield.node.credits import Credits
from nearfield.node.identity import create
from nearfield.node.signing import Signature, verify_text
from nearfield.proof.disclosure import from_json
from nearfield.proof.keys import verify_signature
from tests.node.test_killed import KEY, nurse, start

if find_spec("smg") is None:
    pytest.skip("smg is not installed: pip install smg", allow_module_level=True)
if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)

AUTH = {"Authorization": f"Bearer {KEY}"}
ROUTED = "x-smg-routed-worker-id"


@dataclass(frozen=True)
class Cluster:
    """A router, and its nodes: processes by URL."""

    http: httpx.Client
    nodes: dict[str, int]
    log: Path

    def post(self, body: bytes, **headers: str) -> httpx.Response:
        return self.http.post("/v1/chat/completions", content=body,
                              headers={"Content-Type": "application/json", **AUTH, **headers})


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nursery = stack.enter_context(nurse("0", "pocket"))
        nodes = {}
        for name in ("one", "two"):
            home = tmp_path / name
            create(home)
            ledger = open_ledger(home, NodeConfig())
            Credits(ledger).grant("test", key_payer(KEY), 10**12)
            ledger.database.close()
            pid, url = start(nursery, home)
            stack.callback(kill, pid)
            nodes[url] = pid
        log = tmp_path / "smg.log"
        url = stack.enter_context(router(list(nodes), log))
        yield Cluster(stack.enter_context(httpx.Client(base_url=url, timeout=60)), nodes, log)


@contextmanager
def router(nodes: list[str], log: Path) -> Iterator[str]:
    """smg over `nodes`, as docs/many-nodes.md starts it, on free ports; its URL."""
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "smg", "launch", "--host", "127.0.0.1", "--port", str(port), "--prometheus-port",
               str(metrics), "--worker-urls", *nodes, "--policy", "cache_aware", "--cache-threshold", "0.3",
               "--balance-abs-threshold", "4", "--disable-retries", "--health-check-interval-secs", "1"]
    with log.open("wb") as stream, subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"}) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: len(httpx.get(f"{url}/workers").json()["workers"]) == len(nodes), log)
            yield url
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (httpx.TransportError, KeyError, ValueError):
            pass
        time.sleep(0.05)
    pytest.fail(f"the router did not come so far:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def as_sent_on(text: str, stream: bool = False, **fields: Any) -> bytes:
    """A chat as the router itself would write it, so that it passes as it is."""
    body = {"messages": [{"role": "user", "content": text}], "model": "pocket", "logprobs": False, "stream": stream}
    return json.dumps(body | fields, separators=(",", ":")).encode()


def whole(reply: httpx.Response) -> tuple[str, bytes]:
    """The id of an answer, and its bytes without the comments of a stream."""
    if reply.headers["content-type"] == "application/json":
        return reply.json()["id"], reply.content
    blocks = [block for block in reply.content.split(b"\n\n") if block and not block.startswith(b":")]
    assert blocks[-1] == b"data: [DONE]"
    return json.loads(blocks[0].removeprefix(b"data: "))["id"], b"".join(block + b"\n\n" for block in blocks)


def said(data: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The text of a stream, however it ended, and its errors."""
    events = [json.loads(block[6:]) for block in data.split(b"\n\n") if block.startswith(b"data: {")]
    text = "".join(choice["delta"].get("content") or "" for item in events for choice in item.get("choices", ()))
    return text, [item["error"] for item in events if "error" in item]


def check_passing(cluster: Cluster) -> None:
    """Answers with their signatures and receipts, and refusals with their headers."""
    for stream in (False, True):
        body = as_sent_on("Hello there", stream, near_headers={"X-Receipt-Nonce": "ab" * 32, "X-Receipt-Event": "1"})
        reply = cluster.post(body)
        chat_id, data = whole(reply)
        with httpx.Client(base_url=reply.headers[ROUTED], headers=AUTH) as node:
            signature = node.get(f"/v1/signature/{chat_id}").json()
            receipts = node.get(f"/v1/receipt/{chat_id}").json()["receipts"]
            used = node.get(f"/v1/usage/{chat_id}").json()
        assert signature["text"] == f"pocket:{sha256(body).hexdigest()}:{sha256(data).hexdigest()}"
        assert verify_text(Signature(**signature))
        signed = from_json(receipts[0]).signed
        assert verify_signature(signed) and signed.receipt.client_nonce.hex() == "ab" * 32
        assert used["id"] == chat_id and used["completion_tokens"] > 0
        assert (b'"receipts"' in data) is stream
    refused = cluster.post(as_sent_on("Hello"), Authorization="Bearer " + "p" * 40)
    assert refused.status_code == 402 and refused.json()["error"]["type"] == "insufficient_credits"
    assert "are left" in refused.json()["error"]["message"]
    busy = cluster.post(as_sent_on("too often"))
    assert (busy.status_code, busy.json()["error"]["type"]) == (429, "rate_limited")
    assert busy.headers["retry-after"] == "7"
    malformed = cluster.post(as_sent_on("Hello", max_tokens=5, near_headers={"x-receipt-nonce": "no"}))
    assert malformed.status_code == 400 and "64 hex" in malformed.json()["error"]["message"]


def check_affinity(cluster: Cluster) -> None:
    """A conversation stays with its node; the router has read the nodes' loads."""
    opening = "A long opening that one conversation has and no other. " * 8
    places = {cluster.post(as_sent_on(opening + str(turn), max_tokens=1)).headers[ROUTED] for turn in range(6)}
    assert len(places) == 1 and places <= set(cluster.nodes)

    def loads_known() -> bool:
        loads = cluster.http.get("/get_loads").json()["loads"]
        return {load["worker"] for load in loads} == set(cluster.nodes)

    wait_for(loads_known, cluster.log)


def check_death(cluster: Cluster) -> None:
    """A node dies as it answers: the client reads the beginning of its answer and an error, never another's words."""
    options = {"max_tokens": 600, "ignore_eos": True, "temperature": 0}
    data, victim = b"", ""
    with cluster.http.stream("POST", "/v1/chat/completions", content=as_sent_on("Tell me", True, **options),
                             headers={"Content-Type": "application/json", **AUTH}) as reply:
        for chunk in reply.iter_raw():
            if not data:
                victim = reply.headers[ROUTED]
                kill(cluster.nodes[victim])
            data += chunk
    beginning, errors = said(data)
    assert errors and beginning
    other = next(url for url in cluster.nodes if url != victim)
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(cluster.post(as_sent_on("Tell me", True, **options)))
        return answers[-1].status_code == 200

    # Until the router has noticed, it answers with an error of its own.
    wait_for(answered, cluster.log)
    assert all("error" in reply.json() for reply in answers[:-1])
    text, errors = said(answers[-1].content)
    assert answers[-1].headers[ROUTED] == other and not errors
    assert text.startswith(beginning) and len(text) > len(beginning)


def test_the_router(cluster: Cluster) -> None:
    check_passing(cluster)
    check_affinity(cluster)
    check_death(cluster)
