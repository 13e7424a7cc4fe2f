"""The figures of quality.py against plain loops, and a small run of it."""

import math
from pathlib import Path

import pytest
import torch

import quality
from nearfield.kernels import cpu


def test_divergence_is_that_of_plain_loops() -> None:
    torch.manual_seed(0)
    base, candidate, targets = torch.randn(5, 7) * 3, torch.randn(5, 7) * 3, torch.randint(7, (5,))
    found = quality.compare(base, candidate, targets)
    for t in range(5):
        sums = [sum(math.exp(x) for x in row[t].tolist()) for row in (base, candidate)]
        p, q = ([math.exp(x) / total for x in row[t].tolist()]
                for row, total in zip((base, candidate), sums, strict=True))
        assert found[0, t] == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), rel=1e-6)
        assert found[1, t] == (p.index(max(p)) == q.index(max(q)))
        assert found[2, t] == pytest.approx(math.log(p[targets[t]]), rel=1e-6)
        assert found[3, t] == pytest.approx(math.log(q[targets[t]]), rel=1e-6)


def test_the_interval_is_over_chunks() -> None:
    """Chunks that agree within and differ from each other: the interval is as wide as few chunks make it."""
    found = torch.zeros(4, 4, 1000, dtype=torch.float64)
    found[:2, 0] = 1.0
    made = quality.summarise(found)
    assert made.tokens == 4000 and made.kl_mean == 0.5 and made.perplexity == 1.0
    assert made.kl_low == 0.0 and made.kl_high == 1.0


def test_pocket_is_measured_in_every_way(pocket: Path) -> None:
    if reason := cpu.missing():
        pytest.skip(reason)
    subject = quality.pocket_subject(2, 64)
    assert subject.ids.shape == (2, 65)
    rows = list(quality.measure(subject))
    assert [(row.get("dtype"), row["weights"], row.get("group")) for row in rows] == [
        ("fp32", "dense", None), (None, "w8", None), (None, "w4", 32), (None, "w4", 64), (None, "w4", 128)]
    for row in rows:
        assert row["tokens"] == 64 and 0 < row["kl_mean"] < 0.1 and row["top1"] > 0.8
        assert quality.line(row).startswith("pocket")


def test_a_model_that_cannot_be_quantised_is_a_row_too(tmp_path: Path) -> None:
    from tests.small_model import save_model, small_tensors

    tensors = small_tensors()
    for i in range(2):
        for name, shape in (("gate", (40, 128)), ("up", (40, 128)), ("down", (128, 40))):
            tensors[f"model.layers.{i}.mlp.{name}_proj.weight"] = torch.zeros(shape)
    folder = save_model(tmp_path / "model", tensors, intermediate_size=40)
    rows = list(quality.measure(quality.Subject("odd", folder, "none", torch.zeros(1, 9, dtype=torch.int64))))
    assert ["skipped" in row for row in rows] == [False, True, True, True, True]
    assert "cannot be cut" in rows[1]["skipped"] and "cannot be cut" in quality.line(rows[1])
