"""`nearfield verify` and `nearfield audit` against a real server of the pocket model that gives receipts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nearfield.cli.main import main
from nearfield.kernels import cpu
from tests.cli.kept import CHAT, SAME, Files, receipt_server
from tests.proof.signer import NodeKey
from tests.server.serving import Serving

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with receipt_server(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize("path, fields", [
    ("/v1/chat/completions", CHAT), ("/v1/chat/completions", CHAT | {"n": 2, "seed": 5, "stop": ["the"]}),
    ("/v1/completions", {"prompt": "Once upon"}), ("/v1/completions", {"prompt": ["A", "B"], "logit_bias": {"9": 1}}),
    ("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 3}),
    ("/v1/completions", {"prompt": ["A", "B"], "n": 2, "logprobs": 2, "seed": 3}),
    ("/v1/chat/completions", CHAT | {"tools": TOOLS}),
    ("/v1/chat/completions", CHAT | {"tools": TOOLS, "stream": True}),
    ("/v1/chat/completions", CHAT | {"stream": True}), ("/v1/completions", {"prompt": ["A", "B"], "stream": True}),
    ("/v1/chat/completions", CHAT | {"stream": True, "n": 2, "logprobs": True,
                                     "stream_options": {"include_usage": True}})])
def test_everything_passes(node: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str,
                           fields: dict[str, Any]) -> None:
    files = Files(tmp_path, node, path, **fields)
    assert main(files.args) == 0
    shown = capsys.readouterr().out
    assert "verified: the answer is what this model gives" in shown and "fail" not in shown
    unchecked = [line.split()[0] for line in shown.splitlines() if "not checked:" in line]
    assert set(unchecked) <= {"cached", "verified:"} and shown.endswith("bit for bit; not checked: cached\n")


def test_the_first_difference_is_told(node: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path, node, "/v1/chat/completions", **CHAT)
    reply = json.loads(files.reply.read_text())
    reply["choices"][0]["message"]["content"] += "!"
    files.reply.write_text(json.dumps(reply))
    assert main([*files.args, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["verified"] and all(report["replayed"] for report in told["receipts"])
    assert told["kind"] == "verify" and all(type(report["verified"]) is bool for report in told["receipts"])
    assert told["not_checked"] == ["cached"]
    [wrong] = [one for one in told["response"] if one["outcome"] == "fail"]
    assert wrong["name"] == "reply" and "reply.choices[0].message.content: differs at character" in wrong["reason"]


def test_a_prompt_of_text_or_ids(node: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path, node, "/v1/completions", prompt="Once upon")
    text = tmp_path / "prompt.txt"
    text.write_text("Once upon")
    assert main(["verify", str(files.receipt), "--prompt", str(text), *SAME]) == 0
    ids = node.http.post("/tokenize", json={"prompt": "Once upon"}).json()["tokens"]
    text.write_text(json.dumps(ids))
    assert main(["verify", str(files.receipt), "--prompt", str(text), *SAME]) == 0
    assert "not checked" in capsys.readouterr().out


def test_without_a_prompt_nothing_is_verified(node: Serving, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path, node, "/v1/completions", prompt="Once upon")
    assert main(["verify", str(files.receipt), *SAME]) == 1
    assert "NOT verified: the answer was not computed again" in capsys.readouterr().out


@pytest.mark.parametrize("change, message", [
    (["--dtype", "bf16"], "profile"), (["--nonce", "xy"], "64 hexadecimal"), (["--prompt", "nowhere"], "nowhere"),
    (["--node-key", "ed25519:1"], "public_key")])
def test_what_can_not_be_checked_is_refused(node: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            change: list[str], message: str) -> None:
    files = Files(tmp_path, node, "/v1/completions", prompt="Once upon")
    assert main([*files.args, *change]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "no receipt", "[1]"])
def test_a_file_that_holds_no_receipt_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "receipt.json").write_text(text)
    assert main(["verify", str(tmp_path / "receipt.json"), *SAME]) == 2
    assert f"nearfield: error: {tmp_path / 'receipt.json'}: " in capsys.readouterr().err


def test_an_audit_of_an_honest_node(node: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["audit", node.url, "--fraction", "1", "--requests", "12", "--max-tokens", "16", "--node-key",
            NodeKey().public_key, *SAME]
    assert main(args) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["responses"], told["replayed"], told["refused"], told["faults"]) == (12, 12, 0, 0)
    assert told["tokens"] >= 12 and told["held_by_payment"] == 0


def test_an_audit_of_another_model(node: Serving, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["audit", node.url, "--model", str(shared_data / "weights" / "tinystories-656k"), "--fraction", "1",
            "--requests", "1", *SAME]
    assert main(args) == 1
    assert "model: root of the weights" in capsys.readouterr().out


@pytest.mark.parametrize("change, message", [
    (["--fraction", "0"], "fraction"), (["--prompts", "nowhere"], "nowhere"), (["--requests", "0"], "at least 1")])
def test_options_of_an_audit(capsys: pytest.CaptureFixture[str], change: list[str], message: str) -> None:
    assert main(["audit", "http://127.0.0.1:1", *change, *SAME]) == 2
    assert message in capsys.readouterr().err


def test_an_audit_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "http://127.0.0.1:1", *SAME]) == 2
    error = capsys.readouterr().err
    assert "127.0.0.1:1: cannot be reached" in error and error.count("\n") == 1
    assert main(["audit", "nowhere", *SAME]) == 2
    assert "'nowhere' is not the URL of a server; give one such as http://host:8000" in capsys.readouterr().err
