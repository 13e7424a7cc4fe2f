"""What a long run keeps: whole files or none."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from nearfield.compress.kept import Kept


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run")
    assert "x" not in kept
    kept.put("x", {"w": torch.arange(6).view(2, 3).T}, {"loss": 0.5})
    kept.put("empty", {}, 7)
    again = Kept(tmp_path / "run")
    assert torch.equal(again.tensors("x")["w"], torch.arange(6).view(2, 3).T)
    assert again.facts("x") == {"loss": 0.5} and again.tensors("empty") == {} and again.facts("empty") == 7
    assert again.nbytes() == sum(path.stat().st_size for path in (tmp_path / "run").iterdir())
    again.drop("x")
    again.drop("x")
    assert "x" not in again and "empty" in again
    again.clear()
    assert "empty" not in again and again.nbytes() == 0


def test_a_file_that_was_not_finished_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path / "run")
    kept.put("x", {"w": torch.zeros(1)})

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    for name in ("x", "y"):
        with pytest.raises(OSError, match="No space left"):
            kept.put(name, {"w": torch.ones(1)})
    assert "y" not in kept and torch.equal(kept.tensors("x")["w"], torch.zeros(1))


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run")
    (tmp_path / "run" / "x.safetensors.part").mkdir()
    with pytest.raises(OSError, match=r"x\.safetensors\.part"):
        kept.put("x", {"w": torch.ones(1)})


@pytest.mark.parametrize(("words", "code"), [("I/O error: No space left on device (os error 28)", errno.ENOSPC),
                                             ("no such thing", errno.EIO)])
def test_an_error_of_the_disk_keeps_its_number(words: str, code: int, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise SafetensorError(words)

    monkeypatch.setattr("nearfield.compress.kept.save_file", fails)
    with pytest.raises(OSError, match=r"x\.safetensors\.part") as error:
        Kept(tmp_path / "run").put("x", {})
    assert error.value.errno == code
