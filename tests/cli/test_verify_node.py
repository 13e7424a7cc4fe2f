"""`nearfield verify` and `audit` against NEAR nodes: what is paid for, what routers carry, what proxies edit."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from nearfield.cli.main import main
from nearfield.engine.loop import EngineLoop
from nearfield.kernels import cpu
from nearfield.node.accounts import key_payer
from nearfield.node.config import NodeConfig, parse_config
from nearfield.node.credits import Credits
from nearfield.proof.opening import open_notary
from nearfield.server import prompt
from tests.cli.kept import CHAT, CHATS, COMPLETIONS, NONCE, SAME, Files, opened, receipt_server
from tests.node.node_serving import ServedNode, running, served_node
from tests.proof.signer import NodeKey

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

KEY = "sk-" + "a" * 40
PRICES = {"prompt": "1", "completion": "2", "cached": "1"}     # 1000 and 2000 nano-dollars a token


@contextmanager
def open_real(home: Path, config: NodeConfig | None = None, model: Path | None = None) -> Iterator[ServedNode]:
    """A node of the pocket model, or of another folder, that gives receipts."""
    loaded = opened(model)
    notary = open_notary(loaded, NodeKey(), home)
    loop = EngineLoop(loaded.engine)
    loop.start()
    with served_node(home, config=config, loaded=loaded, loop=loop, notary=notary) as node:
        yield node
    loop.stop()
    notary.close()


class Exchanged:
    """What a client of a node keeps, in a folder: its request, which carries the nonces, the reply and the receipts."""

    def __init__(self, folder: Path, node: ServedNode, path: str, **fields: Any) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        nonce = node.http.get("/v1/receipt/nonce", headers=headers).json()["nonce"]
        carried = {"X-Receipt-Nonce": NONCE, "x-receipt-node-nonce": nonce}
        body = {"model": node.model, "near_headers": carried, **fields}
        reply = node.http.post(path, json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        self.reply = reply.text
        name = json.loads(reply.text.splitlines()[0].removeprefix("data:"))["id"]
        (folder / "request.json").write_text(json.dumps(body))
        (folder / "reply").write_bytes(reply.content)
        (folder / "receipt.json").write_bytes(node.http.get(f"/v1/receipt/{name}", headers=headers).content)
        self.args = ["verify", str(folder / "receipt.json"), "--prompt", str(folder / "request.json"), "--output",
                     str(folder / "reply"), "--node-key", NodeKey().public_key, *SAME]


@pytest.mark.parametrize("fields", [{"max_tokens": 100}, {}, {"max_completion_tokens": 100, "stream": True}])
def test_an_answer_that_the_balance_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                              fields: dict[str, Any]) -> None:
    """The request has its own limit, and the receipt says why the answer has a lower one."""
    with open_real(tmp_path, parse_config({"payment": "prepaid", "prices": PRICES})) as node:
        Credits(node.node.ledger).grant("test", key_payer(KEY), 60_000)
        files = Exchanged(tmp_path, node, CHATS, **CHAT, temperature=0.8, ignore_eos=True, **fields)
    assert main(files.args) == 0
    shown = capsys.readouterr().out
    assert "verified: the answer is what this model gives, bit for bit; the node says that what was paid for" in shown
    assert '"finish_reason":"length"' in files.reply and shown.endswith("not checked: cached\n")


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream": True, "n": 2, "logprobs": True}])
def test_a_free_node_behind_a_router(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                     fields: dict[str, Any]) -> None:
    """The nonces are in the request's body; the node adds the usage to every stream."""
    with open_real(tmp_path) as node:
        files = Exchanged(tmp_path, node, CHATS, **CHAT, temperature=0.8, max_tokens=20, **fields)
    assert main(files.args) == 0
    assert capsys.readouterr().out.endswith("bit for bit; not checked: cached\n")
    assert main([*files.args, "--nonce", "cd" * 32]) == 2
    assert "--nonce is not what the request carries" in capsys.readouterr().err


def test_a_template_that_tells_the_date(tmp_path: Path, pocket: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    """An answer of three days ago is computed again today, with the prompt of then."""
    model = dated(pocket, tmp_path / "pocket")
    then = 1_700_000_000
    with open_real(tmp_path, model=model) as node:
        monkeypatch.setattr(prompt, "time", SimpleNamespace(time=lambda: then))
        files = Exchanged(tmp_path, node, CHATS, **CHAT, max_tokens=8)
        monkeypatch.undo()
    assert main([*files.args, "--model", str(model)]) == 0
    assert "time          pass: 2023-11-14 22:13:20 UTC" in capsys.readouterr().out


def dated(source: Path, target: Path) -> Path:
    """The model with a template that tells the date and the minute."""
    shutil.copytree(source, target)
    (target / "chat_template.jinja").write_text(
        "{{ strftime_now('%d %b %Y %H:%M') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    return target


def edits(change: Callable[[str, bytes], bytes], node: str) -> ASGIApp:
    """A proxy that passes requests on to `node`, and the bodies of answers as `change` (path, body) makes them."""
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"host", b"content-length")]
        async with httpx.AsyncClient(base_url=node, timeout=60) as client:
            reply = await client.request(scope["method"], scope["path"], content=body, headers=headers)
        kind = reply.headers.get("content-type", "").encode()
        await send({"type": "http.response.start", "status": reply.status_code, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": change(scope["path"], reply.content)})

    return app


def billed(path: str, data: bytes) -> bytes:
    """Every text is an object, there is one choice more, and 100,000 tokens are billed."""
    if not path.endswith("completions") or data.startswith(b"data:"):
        return data.replace(b'"content":"', b'"content":"EVIL') if path.endswith("completions") else data
    body = json.loads(data)
    body["choices"] = [{"index": 0, "text": {"evil": "x"}}, {"index": 1, "text": "EVIL", "finish_reason": "stop"}]
    body["usage"] = {"prompt_tokens": 100_000, "completion_tokens": 100_000, "total_tokens": 200_000}
    return json.dumps(body).encode()


def no_receipts(path: str, data: bytes) -> bytes:
    return b"{}" if path.startswith("/v1/receipt/c") else data


def text_alone(path: str, data: bytes) -> bytes:
    """Not even JSON, but with an id in front."""
    return data[:60] + b"\xff" if path.endswith("completions") else data


@pytest.mark.parametrize("change, words", [(billed, "reply: "), (no_receipts, "a receipt must be"),
                                           (text_alone, "has no id")])
def test_an_audit_of_a_proxy_that_edits(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        change: Callable[[str, bytes], bytes], words: str) -> None:
    with receipt_server(tmp_path) as node, running(edits(change, node.url)) as url:
        assert main(["audit", url, "--fraction", "1", "--requests", "8", "--max-tokens", "12", "--node-key",
                     NodeKey().public_key, *SAME]) == 1
    *faults, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary["faults"] == len(faults) and summary["responses"] == 8 and all(words in fault for fault in faults)


def test_an_audit_goes_on_where_requests_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_real(tmp_path, parse_config({"payment": "prepaid", "prices": PRICES})) as node:
        assert main(["audit", node.url, "--requests", "3", *SAME]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("refused: " in line for line in lines)
    assert (json.loads(last)["refused"], json.loads(last)["responses"], json.loads(last)["faults"]) == (3, 0, 0)


@pytest.mark.parametrize("command", [["audit", "http://127.0.0.1:1"], ["verify", "receipt.json"]])
def test_a_key_that_is_none_is_refused_at_the_start(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main([*command, "--node-key", "ed25519:xx", *SAME]) == 2
    assert "--node-key" in capsys.readouterr().err


def test_without_what_the_client_knows_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with receipt_server(tmp_path) as node:
        files = Files(tmp_path, node, COMPLETIONS, prompt="Once upon")
    assert main(["verify", str(files.receipt), "--prompt", str(files.request), *SAME]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("not checked: node, client nonce, node nonce, cached, reply\n")
    assert "give the node's with --node-key" in shown
