"""What a long run keeps: whole files or none, of this run alone."""

from pathlib import Path

import pytest
import torch

from nearfield.compress.kept import Kept
from nearfield.core.errors import ConfigError


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run", {"b": 1, "a": [2]})
    assert "x" not in kept
    kept.put("x", {"w": torch.arange(6).view(2, 3).T}, {"loss": 0.5})
    kept.put("empty", {}, 7)
    again = Kept(tmp_path / "run", {"a": [2], "b": 1})
    assert torch.equal(again.tensors("x")["w"], torch.arange(6).view(2, 3).T)
    assert again.facts("x") == {"loss": 0.5} and again.tensors("empty") == {} and again.facts("empty") == 7
    assert again.nbytes() == sum(path.stat().st_size for path in (tmp_path / "run").iterdir())
    again.drop("x")
    again.drop("x")
    assert "x" not in again and "empty" in again


@pytest.mark.parametrize("run", ['{"a": 1}', "{", None])
def test_another_runs_files_are_thrown_away(run: str | None, tmp_path: Path) -> None:
    Kept(tmp_path / "run", {"a": 2}).put("x", {})
    if run is None:
        (tmp_path / "run" / "run.json").unlink()
    else:
        (tmp_path / "run" / "run.json").write_text(run)
    assert "x" not in Kept(tmp_path / "run", {"a": 2})


def test_what_another_device_has_begun_is_left_to_it(tmp_path: Path) -> None:
    folder, run = tmp_path / "run", {"a": (1, 2), "device": "cpu"}
    Kept(folder, run)
    Kept(folder, {**run, "device": "cuda"})                     # nothing was finished
    Kept(folder, run).put("x", {})
    with pytest.raises(ConfigError, match="has what this run finished with --device cpu; on cuda other bits would"):
        Kept(folder, {**run, "device": "cuda"})
    assert "x" in Kept(folder, run)
    assert "x" not in Kept(folder, {"a": (1, 3), "device": "cuda"})     # another run


def test_a_file_that_was_not_finished_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path / "run", {})
    kept.put("x", {"w": torch.zeros(1)})

    def fails(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    for name in ("x", "y"):
        with pytest.raises(OSError, match="No space left"):
            kept.put(name, {"w": torch.ones(1)})
    assert "y" not in kept and torch.equal(kept.tensors("x")["w"], torch.zeros(1))


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run", {})
    (tmp_path / "run" / "x.safetensors.part").mkdir()
    with pytest.raises(OSError, match=r"x\.safetensors\.part"):
        kept.put("x", {"w": torch.ones(1)})
