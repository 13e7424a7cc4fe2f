"""`nearfield serve` from the outside: the life of a server, and what stops it from starting."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from nearfield.cli.main import main
from nearfield.cli.node_common import describe_keys
from nearfield.cli.serve import banner, box
from nearfield.core.config import EngineConfig
from nearfield.server.keys import KeyRing
from nearfield.server.run import bind

if TYPE_CHECKING:
    from nearfield.engine.build import Loaded

PROGRAM = "import sys; from nearfield.cli.main import main; sys.exit(main())"


def test_a_life(pocket: Path, tmp_path: Path) -> None:
    """Start on a free port, answer the key's holder, leave with 0 and no children on SIGTERM."""
    keys = tmp_path / "keys"
    keys.write_text("sesame\n", "utf-8")
    words = ["serve", "--port", "0", "--kv-memory", "64MiB", "--max-context", "256", "--api-key-file", str(keys),
             "--served-model-name", "demo"]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *words], text=True, start_new_session=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            box = ""
            while "curl" not in box and (line := process.stdout.readline()):
                box += line
            found = re.search(r"http://127\.0\.0\.1:\d+", box)
            assert found, process.stderr.read()
            assert "demo" in box and "256 tokens" in box and "needed" in box and "sesame" not in box
            with httpx.Client(base_url=found[0], timeout=30) as http:
                body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
                assert http.post("/v1/chat/completions", json=body).status_code == 401
                http.headers["Authorization"] = "Bearer sesame"
                reply = http.post("/v1/chat/completions", json=body)
                assert reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
            log = process.stderr.read()
            assert "POST /v1/chat/completions 200" in log and "Hello" not in log and "Traceback" not in log
        finally:
            process.kill()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that says why `nearfield serve` does not start."""
    assert main(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as sock:
        sock.listen()
        port = str(sock.getsockname()[1])
        assert f"port {port}: Address already in use" in refused(capsys, "--port", port)


@pytest.mark.parametrize(("words", "reason"), [
    (["--port", "70000"], "not a port"), (["--port", "x"], "not a port"), (["--port", "-1"], "--port"),
    (["--api-key-file", "/no/such/file"], "No such file"), (["--kv-memory", "much"], "not a size"),
    (["--hots", "x"], "'--host'"), (["--max-seqs", "0"], "at least 1"), (["/no/such/model", "--port", "0"], "model"),
])
def test_wrong_options(capsys: pytest.CaptureFixture[str], words: list[str], reason: str) -> None:
    assert reason in refused(capsys, *words)


def test_the_banner_warns_of_an_open_server(loaded_pocket: "Loaded") -> None:
    config = EngineConfig(dtype="fp32")
    for host, keys, warned in (("0.0.0.0", (), True), ("0.0.0.0", ("k",), False), ("127.0.0.1", (), False)):
        with bind(host, 0) as sock:
            lines = describe_keys(host, KeyRing(keys))
            assert any(line.startswith("WARNING") for line in lines) == warned
            told, curl = banner(loaded_pocket, config, sock, bool(keys), "it's", lines)
            assert set(lines) < set(told) and "weights   dense" in told and ("Bearer" in curl) == bool(keys)
            assert json.loads(shlex.split(curl)[-1])["model"] == "it's"


def test_a_box_that_is_wider_than_the_terminal_has_no_frame() -> None:
    assert box(["ab", "c"], 6) == box(["ab", "c"]) == "╭────╮\n│ ab │\n│ c  │\n╰────╯"
    assert box(["ab", "c"], 5) == "ab\nc"
