"""`make demo` as it is run: the real server, the real client, and a failure that is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


def _run(**environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, DEMO], capture_output=True, text=True, check=False,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})


@pytest.mark.usefixtures("pocket")
def test_demo_batches_and_shares() -> None:
    done = _run()
    assert done.returncode == 0, done.stderr
    assert "6 requests at once: batch size reached" in done.stdout
    assert done.stdout.endswith("server stopped\n")


def test_failure_shows_the_servers_log(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch is broken here')\n")
    done = _run(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "the server ended at start" in done.stderr and "torch is broken here" in done.stderr
