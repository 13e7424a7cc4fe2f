"""The pack cache: what is read is what was written, to the bit, and nothing else is ever used."""

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nearfield.cache.store import DenseKV
from nearfield.core.config import Weights
from nearfield.core.errors import ModelError
from nearfield.engine.batch import whole_inputs
from nearfield.kernels import cpu, select
from nearfield.kernels.ops import KVShape
from nearfield.models.file_hashes import FileHashes
from nearfield.models.loader import CheckpointSource, Storage, load_decoder, weight_formats
from nearfield.models.pack_cache import PackCache
from nearfield.models.pack_file import Blob, PackReader
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config

CONFIG: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 40, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False}
LINEARS = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
           "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96)}
LOAD = """
import sys
from pathlib import Path
{before}
sys.path.insert(0, {tests!r})
from tests.models.test_pack_cache import load
load(Path(sys.argv[1]))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a small model whose biases and norms matter."""
    folder = tmp_path / "model"
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, 64), "lm_head.weight": (40, 64),
                                          "model.norm.weight": (64,)}
    for layer in ("model.layers.0.", "model.layers.1."):
        shapes |= {f"{layer}{name}.weight": shape for name, shape in LINEARS.items()}
        shapes |= {f"{layer}{name}.bias": shape[:1] for name, shape in LINEARS.items() if name[10:] in
                   ("q_proj", "k_proj", "v_proj")}
        shapes |= {f"{layer}{name}.weight": (64,) for name in ("input_layernorm", "post_attention_layernorm")}
    save_file({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()},
              folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """The folder of packs, empty."""
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "nearfield")
    return tmp_path / "cache" / "packs"


def load(folder: Path, weights: Weights = "w4", *, isa: str | None = None, pack_cache: bool = True) -> torch.Tensor:
    """Load the model; its logits for a few tokens."""
    formats = weight_formats(weights, 32)
    ops = select.build("fp32", (formats.inner.name, formats.table.name), isa=isa, threads=2)
    spec = read_spec(Config.load(folder / "config.json"))
    decoder = load_decoder(folder, spec, ops, "fp32", 64, storage=Storage(formats), pack_cache=pack_cache)
    shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, 16)
    with torch.inference_mode():
        kv = DenseKV(ops, shape, 2 * shape.page_bytes(torch.float32), torch.float32)
        return decoder.logits(decoder.hidden(whole_inputs([3, 1, 4, 1, 5], kv, 16)))


def index(file: Path) -> Any:
    with closing(PackReader(file)) as reader:
        return reader.index


def opened(file: Path) -> PackCache:
    """The cache that `file` was written by."""
    return PackCache(file, index(file)["key"], select.build("fp32", ("int4", "int8"), threads=2))


def blobs(part: Any) -> list[Blob]:
    """All that an index, or a part of it, names."""
    if not isinstance(part, dict):
        return []
    inside = [blob for value in part.values() for blob in blobs(value)]
    return [*inside, Blob(part["offset"], part["length"], part["sha256"])] if "sha256" in part else inside


def only(packs: Path) -> Path:
    """The one pack, with nothing unfinished beside it."""
    assert sorted(file.suffix for file in packs.iterdir()) == [".json", ".pack"]
    return next(packs.glob("*.pack"))


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond `size`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def child(folder: Path, before: str = "") -> "subprocess.Popen[bytes]":
    """A process that loads the model, after it has run `before`."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", LOAD.format(before=before, tests=str(root)), str(folder)])


@pytest.mark.parametrize("weights", ["w4", "w8"])
def test_the_second_start_reads_what_the_first_wrote(
        weights: Weights, model: Path, packs: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    plain = load(model, weights, pack_cache=False)
    assert not packs.exists()
    first = load(model, weights)
    assert f"wrote packed weights to {only(packs)}" in caplog.text
    monkeypatch.setattr(CheckpointSource, "get", None)   # whoever asks the checkpoint now fails
    for isa in cpu.supported() or (None,):
        assert torch.equal(load(model, weights, isa=isa), first)
    assert torch.equal(first, plain)
    assert f"read packed weights from {only(packs)}" in caplog.text


def test_a_pack_is_of_one_form(model: Path, packs: Path) -> None:
    four, eight = load(model, "w4"), load(model, "w8")
    assert len(list(packs.glob("*.pack"))) == 2
    assert torch.equal(load(model, "w4"), four) and torch.equal(load(model, "w8"), eight)
    assert not torch.equal(four, eight)


def test_a_truncated_pack_is_made_anew(model: Path, packs: Path, caplog: pytest.LogCaptureFixture) -> None:
    want = load(model)
    file = only(packs)
    whole, cache = file.read_bytes(), opened(file)
    named = blobs(index(file))
    cuts = {0, 1, 15, 16, 63, 64, len(whole) - 1, *(blob.offset for blob in named),
            *(blob.offset + blob.length - 1 for blob in named)}
    for cut in cuts:
        file.write_bytes(whole[:cut])
        caplog.clear()
        assert cache.read() is None, cut
        assert f"{file} is not used: it " in caplog.text
    assert torch.equal(load(model), want)
    assert only(packs).read_bytes() == whole


def test_a_flipped_bit_is_found(model: Path, packs: Path, caplog: pytest.LogCaptureFixture) -> None:
    want = load(model)
    file = only(packs)
    whole, cache = file.read_bytes(), opened(file)
    named = blobs(index(file))
    last = max(blob.offset + blob.length for blob in named)
    for place in [*range(64), *(blob.offset + blob.length // 2 for blob in named), last - 1, len(whole) - 1]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
        assert cache.read() is None, place
    caplog.clear()
    assert torch.equal(load(model), want)
    assert "the weights are packed again" in caplog.text
    assert only(packs).read_bytes() == whole


def test_another_pack_under_this_name_is_not_used(model: Path, packs: Path, caplog: pytest.LogCaptureFixture) -> None:
    want = load(model, "w4")
    file = only(packs)
    load(model, "w8")
    other = next(found for found in packs.glob("*.pack") if found != file)
    file.write_bytes(other.read_bytes())
    assert torch.equal(load(model, "w4"), want)
    assert "it belongs to another checkpoint or another form of this one" in caplog.text


def test_a_changed_checkpoint_is_packed_anew(model: Path, packs: Path) -> None:
    first = load(model)
    path = model / "model.safetensors"
    before, tensors = path.stat(), load_file(path)
    save_file({name: tensor.flip(0).contiguous() for name, tensor in tensors.items()}, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    second = load(model)
    assert not torch.equal(second, first)
    assert torch.equal(second, load(model, pack_cache=False))


def test_a_checkpoint_that_changes_meanwhile_is_not_kept(
        model: Path, packs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    unused = CheckpointSource.unused

    def late(self: CheckpointSource) -> list[str]:
        os.utime(model / "model.safetensors")
        return unused(self)

    monkeypatch.setattr(CheckpointSource, "unused", late)
    load(model)
    assert [file.name for file in packs.iterdir()] == ["files.json"]
    assert "the checkpoint changed while it was read" in caplog.text


def test_a_folder_that_cannot_be_written_is_a_warning(
        model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    want = load(model, pack_cache=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEARFIELD_CACHE", str(tmp_path / "file"))
    assert torch.equal(load(model), want)
    assert "packed weights are not kept for the next start" in caplog.text


def test_a_full_disk_is_a_warning(model: Path, packs: Path, caplog: pytest.LogCaptureFixture) -> None:
    want = load(model)
    size = only(packs).stat().st_size
    for room in (0, 1000, 5000, size // 2, size - 1):
        for file in packs.iterdir():
            file.unlink()
        caplog.clear()
        with files_up_to(room):
            assert torch.equal(load(model), want)
        assert "packed weights are not kept in" in caplog.text
        assert [file.name for file in packs.iterdir()] == ["files.json"] * (room > 0)
    assert torch.equal(load(model), want)
    assert only(packs).stat().st_size == size


@pytest.mark.parametrize("before", [
    "import os, nearfield.models.pack_file as p; p.PackWriter.commit = lambda *_: os.kill(os.getpid(), 9)",
    "import os; os.replace = lambda *_: os.kill(os.getpid(), 9)",
    "import os, nearfield.models.decoder as d; d.Rotary = lambda *_: os.kill(os.getpid(), 9)"])
def test_a_killed_writer_leaves_nothing_that_looks_whole(before: str, model: Path, packs: Path) -> None:
    assert child(model, before).wait() == -9
    assert not list(packs.glob("*.pack"))
    assert len(list(packs.glob("*.part"))) == 1
    want = load(model)
    only(packs)
    assert torch.equal(load(model), want)


def test_two_processes_at_once(model: Path, packs: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = child(model), child(model)
    assert (first.wait(), second.wait()) == (0, 0)
    file = only(packs)
    load(model)
    assert f"read packed weights from {file}" in caplog.text


def test_a_tensor_without_a_place_stays_an_error(model: Path, packs: Path) -> None:
    path = model / "model.safetensors"
    save_file({**load_file(path), "model.extra": torch.ones(1)}, path)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"qwen2 config has no place for 1 of the tensors"):
            load(model)
    assert [file.name for file in packs.iterdir()] == ["files.json"]


def test_hashes_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo, files = tmp_path / "memo.json", [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text(file.name)
    want = ["ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
            "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"]
    assert FileHashes(memo).of(files, 2) == want
    with monkeypatch.context() as patch:
        patch.setattr("nearfield.models.file_hashes._entry", None)
        assert FileHashes(memo).of(files, 2) == want
    for broken in ("", "[]", '{"x": 1}', json.dumps({str(files[0]): ["1"]})):
        memo.write_text(broken)
        assert FileHashes(memo).of(files, 2) == want
    files[0].unlink()
    files[1].write_text("other")
    assert FileHashes(memo).of(files[1:], 1) != want[1:]
    assert list(json.loads(memo.read_text())) == [str(files[1])]
