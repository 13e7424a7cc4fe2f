"""`nearfield generate` on the pocket model: the text streams to stdout, and nothing else does."""

import io
import sys
from pathlib import Path

import pytest

from nearfield.cli.main import main

OPTIONS = ("--max-tokens", "8", "--temperature", "0", "--dtype", "fp32", "--kv-memory", "16MiB")


@pytest.mark.usefixtures("pocket")
def test_prompt_and_stdin_give_the_same(capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["generate", "--prompt", "Once upon a", *OPTIONS]) == 0
    first = capsys.readouterr().out
    assert first.strip() and first.endswith("\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon a"))
    assert main(["generate", "--prompt", "-", *OPTIONS]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.usefixtures("pocket")
def test_bad_sampling_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "x", *OPTIONS, "--top-p", "2"]) == 2
    assert "top_p must be a number in (0, 1]" in capsys.readouterr().err


def test_missing_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    assert main(["generate", missing, "--prompt", "x"]) == 2
    error = capsys.readouterr().err
    assert missing in error and error.startswith("nearfield: error: ")
