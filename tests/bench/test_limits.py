"""The limit: every matrix counts, and more of them take longer."""

import pytest
import torch
from torch.nn import functional

from nearfield.bench.limits import MatmulLimit


def test_every_matrix_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    monkeypatch.setattr(functional, "linear", lambda x, w: seen.append((tuple(x.shape), tuple(w.shape))))
    limit = MatmulLimit([torch.ones(6, 4), torch.ones(4, 6), torch.ones(8, 4)], torch.ones(9, 4))
    limit.seconds(rows=5, head_rows=2)
    assert seen == [((5, 4), (6, 4)), ((5, 6), (4, 6)), ((5, 4), (8, 4)), ((2, 4), (9, 4))]


def test_more_work_takes_longer() -> None:
    weight = torch.ones(512, 512)
    few, many = MatmulLimit([weight], weight), MatmulLimit([weight] * 40, weight)
    few.seconds(64, 64)
    assert min(many.seconds(64, 64) for _ in range(3)) > min(few.seconds(64, 64) for _ in range(3))
