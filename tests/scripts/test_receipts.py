"""Small runs of receipts.py: it measures what it says, and honest runs do not differ."""

import json

import pytest

import receipts
from nearfield.kernels import cpu

if missing := cpu.missing():
    pytest.skip(missing, allow_module_level=True)


def test_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert receipts.main(["cost", "--dtype", "fp32", "--threads", "1", "--prompt", "40", "--output", "16",
                          "--batch", "1,2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in told["decode"]] == [1, 2]
    assert told["replay_share"] > 0 and told["model_root_s"] >= 0


def test_honest(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "STORED", receipts.STORED[:1])
    monkeypatch.setattr(receipts, "WAYS", receipts.WAYS[:2])
    assert receipts.main(["honest", "--tokens", "80"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answers_that_differed"] == 0 and told["tokens_compared"] >= 80 * 2 * 3
