"""`nearfield evaluate`: what it prints, and where its report goes."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from nearfield.bench import fidelity_report
from nearfield.cli.main import main

SPAN = [0.9, 1.1]
COST = {"peak_rss_gib": 1.0, "prefill_tokens_per_s": 12345.6, "decode_tokens_per_s": 3.0,
        "prefill_range": [2.0, 34567.8], "decode_range": [2.5, 3.5]}
RESULT: dict[str, Any] = {
    "models": {"base": "pocket", "candidate": "small"}, "band": "lossy", "tokens": 8, "backend": "cpu",
    "kl": {"mean": 0.1, "ci95": SPAN, "median": 0.1, "p99": 0.2, "max": 0.3},
    "top1_agreement": {"value": 0.9, "ci95": SPAN}, "bytes": {"base": 10, "candidate": 5},
    "perplexity": {"base": 123456.78, "candidate": 3.14159265, "ratio": 1.0, "ci95": SPAN},
    "noise_floor": {"kl": {"mean": 0.0}, "top1_agreement": {"value": 1.0}},
    "footprint": {"base": COST, "candidate": COST}}


def test_the_folder_of_the_report_is_made(
        pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def reported(base: Path, candidate: Path, folder: Path, *_: object) -> dict[str, Any]:
        (folder / "report.json").write_text("{}")
        return RESULT
    monkeypatch.setattr(fidelity_report, "report_fidelity", reported)
    folder = tmp_path / "reports" / "small"
    words = ["evaluate", str(pocket), str(pocket), "--text", "x.txt", "--report"]
    assert main([*words, str(folder)]) == 0
    assert (folder / "report.json").exists()
    out = capsys.readouterr().out
    assert "123,457 to 3.1416, ratio 1.00000" in out and "12,346 (2 to 34,568) to 12,346" in out
    assert "3 (2.5 to 3.5) to 3 (2.5 to 3.5) tokens/s" in out
    assert main([*words, str(folder / "report.json")]) == 2
    assert "report.json: cannot be written" in capsys.readouterr().err


def test_a_run_that_fails_leaves_no_folder(
        pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Save what was there before."""
    text = tmp_path / "short.txt"
    text.write_text("too short")
    words = ["evaluate", str(pocket), str(pocket), "--text", str(text), "--report"]
    (tmp_path / "mine").mkdir()
    for folder in ("reports/small", "mine", "mine/small"):
        assert main([*words, str(tmp_path / folder)]) == 2
        assert "give more text" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "short.txt"]


@pytest.mark.parametrize("fails", ["report.html", "report.json"])
def test_a_report_is_the_old_one_until_the_new_one_is_whole(
        fails: str, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk half-way through a file leaves what was there, and nothing else."""
    def full(self: Path, data: str, *_: object) -> int:
        if self.name.startswith(fails):
            self.write_bytes(data.encode()[:5])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return self.write_bytes(data.encode())
    monkeypatch.setattr(fidelity_report, "run_fidelity", lambda *_: RESULT)
    monkeypatch.setattr(fidelity_report, "page", lambda result: "<html>")
    (tmp_path / "report.json").write_text('{"prune": {}}')
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(Path, "write_text", full)
    assert main(["evaluate", str(pocket), str(pocket), "--text", "x.txt", "--report", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert json.loads((tmp_path / "report.json").read_text()) == {"prune": {}}
