"""What a model costs beside another: medians of turns with their range, in processes that Ctrl-C passes by."""

import signal
from pathlib import Path

import pytest

from nearfield.bench import footprint
from nearfield.bench.footprint import Footprint, Turn, side_by_side, summary


def measured(folder: Path, prompt: int, output: int) -> Turn:
    """Stands for a measurement: whether Ctrl-C is ignored where it runs."""
    return Turn(int(signal.getsignal(signal.SIGINT) == signal.SIG_IGN), 0.5, (1.0,), (2.0,))


def test_turns_become_medians_with_their_range() -> None:
    found = summary([Turn(7, 1.5, (100.0, 120.04), (9.0, 8.0)), Turn(7, 1.25, (80.0, 110.0), (8.5, 9.996))])
    assert found == Footprint(7, 1.5, 105.0, 8.75, (80.0, 120.0), (8.0, 10.0))


def test_ctrl_c_is_minded_by_the_parent_alone(pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(footprint, "_measure", measured)
    monkeypatch.setattr(footprint, "TURNS", 1)
    assert [each.bytes for each in side_by_side(pocket, pocket)] == [1, 1]
    assert signal.getsignal(signal.SIGINT) == before
