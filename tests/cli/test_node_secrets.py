"""A node's process through all that can go wrong, with services that echo what they are sent: no secret leaves."""

import base64
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from nearfield.node.identity import Identity, create
from nearfield.node.wire import read_body, send_json
from tests.node.ledger.doubles import voucher
from tests.node.near_client import NearClient
from tests.node.node_serving import running

PROGRAM = "import sys; from nearfield.cli.main import main; sys.exit(main())"
KEY, TOKEN, FACILITATOR, RPC = "sk-" + "client0key" * 4, "a-usage-token", "a-facilitator-key", "rpc-access-key"
PROMPT = "my own words to the model"
ACTION = base64.b64encode(b"a signed delegate action").decode()


@contextmanager
def echo() -> Iterator[str]:
    """Services that refuse everything, and say all that they were sent."""
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await read_body(receive, 1 << 20)).decode("latin-1")
        told = f"{scope['path']} {scope['headers']} {body}"
        await send_json(send, 500, {"error": {"message": told, "cause": {"name": told}}, "errorReason": told})

    with running(app) as url:
        yield url


@dataclass
class Process:
    """A served node, and what it has answered."""

    http: httpx.Client
    answers: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)

    def send(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        answer = self.http.request(method, path, content=content, headers=lines)
        self.answers.append(f"{answer.headers} {answer.text}")
        self.statuses.add(answer.status_code)
        return answer


def options(folder: Path, services: str) -> list[str]:
    files = {"token": TOKEN, "facilitator": FACILITATOR, "keys": KEY}
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
        (folder / name).chmod(0o600)
    (folder / "node.toml").write_text(f"""
payment = "both"
usage_url = "{services}/usage"
usage_token_file = "{folder}/token"
facilitator_url = "{services}/x402"
facilitator_key_file = "{folder}/facilitator"
channels = "channels.testnet"
nano_dollars_per_near = 2500000000
rpc_url = "{services}/{RPC}"
[prices]
prompt = "1"
completion = "2"
""")
    return ["--node-config", str(folder / "node.toml"), "--api-key-file", str(folder / "keys")]


def misuse(node: Process, home: Path) -> None:
    """Every way in, with what does not belong there."""
    key = {"Authorization": f"Bearer {KEY}"}
    chat = {"model": "pocket", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
    offer = json.loads(base64.b64decode(node.send("POST", "/v1/credits", {}, **key).headers["payment-required"]))
    payment = {"x402Version": 2, "payload": {"signedDelegateAction": ACTION}, "accepted": offer["accepts"][0]}
    signature = base64.b64encode(json.dumps(payment).encode()).decode()
    node.send("POST", "/v1/credits", {}, PAYMENT_SIGNATURE=signature, **key)
    for headers in ({}, key, {"Authorization": "Bearer sk-a-wrong-key"}, key | {"X-Payments-Signature": voucher(5)},
                    key | {"X-Payments-Signature": PROMPT}, key | {"X-Client-Pub-Key": PROMPT},
                    key | {"X-Receipt-Nonce": PROMPT}):
        node.send("POST", "/v1/chat/completions", chat, **headers)
    sealed = key | {"X-Signing-Algo": "ed25519", "X-Client-Pub-Key": "ab" * 32, "X-Encryption-Version": "2"}
    for body in (chat, {"messages": PROMPT}, PROMPT.encode(), chat | {"near_headers": {"x": KEY}}):
        node.send("POST", "/v1/chat/completions", body, **sealed)
        node.send("POST", "/v1/completions", body, **key)
    for path in ("/pc/state/channel-1", "/v1/usage/x", "/v1/signature/x", "/v1/receipt/x", "/metrics", "/",
                 "/nowhere", "/v1/models", "/v1/attestation/report", "/v1/loads"):
        node.send("GET", path, **key)
    with sqlite3.connect(home / "ledger.sqlite") as books:
        books.execute("alter table accounts rename to hidden")
    node.send("POST", "/v1/chat/completions", chat, **key)


def written(identity: Identity) -> list[str]:
    """The private keys, in every form that a program could print them in."""
    raw = [bytes(identity.ed25519), identity.secp256k1.secret]
    return [form for data in raw for form in (data.hex(), base64.b64encode(data).decode(), repr(data)[2:-1])]


def test_no_secret_leaves_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("NEARFIELD_NODE_HOME", str(home))
    identity = create(home)
    with echo() as services:
        command = [sys.executable, "-c", PROGRAM, "serve", "--node", "--port", "0", "--kv-memory", "64MiB",
                   "--max-context", "256", "--dtype", "fp32", *options(tmp_path, services)]
        log = tmp_path / "log"
        with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                url = address(log, process)
                with httpx.Client(base_url=url, timeout=30) as http:
                    node = Process(http)
                    NearClient(http, "pocket", "ed25519", encrypt=True)
                    misuse(node, home)
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=30) == 0
            finally:
                process.kill()
    assert {400, 401, 402, 404, 503} <= node.statuses and 500 not in node.statuses
    said = log.read_text()
    assert "can not be read from the chain" in said and "top-up" in said and "the ledger" in said and len(said) > 2000
    private = [json.loads((home / name).read_text())["private_key"] for name in ("ed25519.json", "secp256k1.json")]
    keys = [*private, *(text.partition(":")[2] for text in private), *written(identity)]
    for secret in (*keys, TOKEN, FACILITATOR, RPC, ACTION, KEY, PROMPT, "sk-a-wrong-key"):
        assert secret not in said, secret
        assert not [answer for answer in node.answers if secret in answer], secret
    books = b"".join(file.read_bytes() for file in home.glob("ledger*"))
    assert not [secret for secret in (*private, TOKEN, FACILITATOR, RPC, KEY, PROMPT) if secret.encode() in books]


def address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    """The URL in the banner, once it is there."""
    while not (found := re.search(r"http://127\.0\.0\.1:\d+(?=/v1)", log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    return found[0]
