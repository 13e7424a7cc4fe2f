"""`nearfield evaluate`: what it prints, and where its report goes."""

from pathlib import Path
from typing import Any

import pytest

from nearfield.bench import fidelity_report
from nearfield.cli.main import main

SPAN = [0.9, 1.1]
COST = {"peak_rss_gib": 1.0, "prefill_tokens_per_s": 2.0, "decode_tokens_per_s": 3.0}
RESULT: dict[str, Any] = {
    "models": {"base": "pocket", "candidate": "small"}, "band": "lossy", "tokens": 8, "backend": "cpu",
    "kl": {"mean": 0.1, "ci95": SPAN, "median": 0.1, "p99": 0.2, "max": 0.3},
    "top1_agreement": {"value": 0.9, "ci95": SPAN}, "bytes": {"base": 10, "candidate": 5},
    "perplexity": {"base": 25880.0, "candidate": 3.14159265, "ratio": 1.0, "ci95": SPAN},
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
    assert "25880 to 3.1416, ratio 1.00000" in capsys.readouterr().out
    assert main([*words, str(folder / "report.json")]) == 2
    assert "report.json: cannot be written" in capsys.readouterr().err
