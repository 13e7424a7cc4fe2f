"""Writing a dense folder: tensors one at a time, the parent's other files, all of it or none."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nearfield.compress.dense_folder import make_dense
from nearfield.compress.parent import read_parent
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.checkpoint import Entry
from tests.small_model import CONFIG, save_model, small_tensors

ENTRIES = {"a": Entry((2, 3), torch.bfloat16), "b": Entry((4,), torch.float32), "c": Entry((1,), torch.float16)}


def made(name: str) -> torch.Tensor:
    entry = ENTRIES[name]
    return torch.full(entry.shape, 1.5, dtype=entry.dtype)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    folder = save_model(tmp_path / "parent", small_tensors())
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "report.html", "old.bin"):
        (folder / name).write_text(name)
    (folder / "report.json").write_text('{"quantize": {"x": 1}, "fidelity": {"y": 2}}')
    return folder


@pytest.mark.parametrize("shard_bytes", [1 << 30, 20])
def test_tensors_config_and_other_files(shard_bytes: int, parent: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    make_dense(parent, out, {**CONFIG, "num_hidden_layers": 1}, ENTRIES, made, "unpack", {"from": "parent"},
               shard_bytes=shard_bytes, progress=lambda done, total: seen.append((done, total)))
    found = {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert found.keys() == ENTRIES.keys() and all(torch.equal(found[name], made(name)) for name in ENTRIES)
    assert (out / "model.safetensors.index.json").exists() == (shard_bytes == 20)
    assert json.loads((out / "config.json").read_text()) == {**CONFIG, "num_hidden_layers": 1}
    others = {path.name for path in out.iterdir()} - {path.name for path in out.glob("model*")}
    assert others == {"config.json", "report.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"}
    report = json.loads((out / "report.json").read_text())
    assert report.keys() == {"quantize", "unpack"} and report["unpack"]["from"] == "parent"
    assert report["unpack"]["seconds"] >= 0 and seen == [(i, 3) for i in range(4)]


def test_what_fails_leaves_nothing(parent: Path, tmp_path: Path) -> None:
    def broken(name: str) -> torch.Tensor:
        if name == "b":
            raise ModelError("b is not finite")
        return made(name)

    with pytest.raises(ModelError, match="b is not finite"):
        make_dense(parent, tmp_path / "out", CONFIG, ENTRIES, broken, "unpack", {})
    with pytest.raises(ConfigError, match="needed and .* free.*; make room"):
        make_dense(parent, tmp_path / "out", CONFIG, {"a": Entry((1 << 50,), torch.float32)}, made, "unpack", {})
    with pytest.raises(ConfigError, match="parent: exists already"):
        make_dense(parent, parent, CONFIG, ENTRIES, made, "unpack", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parent"]


def test_a_folder_of_codes_is_sent_to_unpack(parent: Path) -> None:
    coded = {**CONFIG, "quantization_config": {
        "quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}}},
        "ignore": ["lm_head"]}}
    (parent / "config.json").write_text(json.dumps(coded))
    with pytest.raises(ModelError, match=r"parent: is quantised already, as int8.* dense first: nearfield unpack"):
        read_parent(parent)
