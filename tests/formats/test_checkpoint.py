"""Reading checkpoints: shards, ties, and every way a folder can be broken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nearfield.core.errors import ModelError
from nearfield.formats.checkpoint import Checkpoint


def sharded(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {f"t{i}": torch.randn(4, 3) for i in range(4)}
    names = {"a.safetensors": ["t0", "t1"], "b.safetensors": ["t2", "t3"]}
    for file, members in names.items():
        save_file({n: tensors[n] for n in members}, folder / file)
    index = {"weight_map": {n: file for file, members in names.items() for n in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    assert sorted(checkpoint.names()) == sorted(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.read(name, (4, 3), torch.float32), tensor)
    half = checkpoint.read("t0", (4, 3), torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half, tensors["t0"].bfloat16())


def test_a_folder_of_pickles_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*run code.*safetensors"):
        Checkpoint(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        Checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors.*missing"):
        Checkpoint(tmp_path)


def test_an_index_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "secret.safetensors"
    save_file({"t": torch.ones(2)}, outside)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t": "../secret.safetensors"}}))
    with pytest.raises(ModelError, match="missing"):
        Checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 4, 60, -10])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"t": torch.ones(64)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors.*copy"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("header", [b"\xff" * 8, (2**62).to_bytes(8, "little"), b"\x02" + b"\0" * 7 + b"[]"])
def test_a_hostile_header_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(header + b"\0" * 32)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        Checkpoint(tmp_path)


def test_shape_dtype_and_absence_are_told(tmp_path: Path) -> None:
    save_file({"t": torch.ones(2, 3), "i": torch.ones(2, dtype=torch.int32)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"tensor t is \[2, 3\], config\.json makes it \[3, 2\]"):
        checkpoint.read("t", (3, 2), torch.float32)
    with pytest.raises(ModelError, match="only floating point"):
        checkpoint.read("i", (2,), torch.float32)
    with pytest.raises(ModelError, match="tensor gone is missing"):
        checkpoint.read("gone", (1,), torch.float32)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"index\.json"):
        Checkpoint(tmp_path)
