"""Writing safetensors in a stream: the library reads the same tensors, whatever their order and number."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nearfield.formats.checkpoint import DTYPES, Checkpoint, Entry
from nearfield.formats.shards import ShardWriter


def make(count: int = 6) -> dict[str, torch.Tensor]:
    """A tensor of each dtype, of sizes that leave the next one at an odd place."""
    torch.manual_seed(0)
    made = {name: torch.randn(3, 5 + i).mul(100).to(dtype) for i, (name, dtype) in enumerate(DTYPES.items())}
    return {**made, "empty": torch.empty(0, 4), "number": torch.tensor(7), "turned": torch.randn(4, 3).T}


def entries(tensors: dict[str, torch.Tensor]) -> dict[str, Entry]:
    return {name: Entry(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize("limit", [1 << 30, 400, 1])
def test_the_library_reads_what_was_written(limit: int, tmp_path: Path) -> None:
    tensors = make()
    with ShardWriter(tmp_path, entries(tensors), limit) as writer:
        for name in sorted(tensors):
            writer.write(name, tensors[name])
    files = sorted(tmp_path.glob("*.safetensors"))
    found: dict[str, torch.Tensor] = {}
    for file in files:
        part = load_file(file)
        assert len(part) == 1 or sum(t.nbytes for t in part.values()) <= limit
        found |= part
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (len(files) > 1)
    if index.exists():
        described = json.loads(index.read_text())
        assert described["weight_map"].keys() == tensors.keys()
        assert described["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    checkpoint = Checkpoint(tmp_path)
    assert {name: checkpoint.entry(name) for name in checkpoint.names()} == entries(tensors)


def test_a_tensor_that_was_not_told_or_not_written_is_an_error(tmp_path: Path) -> None:
    told = {"a": Entry((2,), torch.int8), "b": Entry((1,), torch.float32)}
    with pytest.raises(ValueError, match="1 tensors were not written, the first b"), ShardWriter(tmp_path, told) as w:
        w.write("a", torch.zeros(2, dtype=torch.int8))
    with ShardWriter(tmp_path, told) as writer:
        with pytest.raises(ValueError, match=r"tensor b is \[2\]"):
            writer.write("b", torch.zeros(2))
        writer.write("b", torch.zeros(1))
        with pytest.raises(ValueError, match="b has been written already"):
            writer.write("b", torch.zeros(1))
        writer.write("a", torch.zeros(2, dtype=torch.int8))
