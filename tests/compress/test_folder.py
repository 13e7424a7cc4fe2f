"""Writing a quantised folder: what is in it, and that there is all of it or none."""

import fcntl
import json
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nearfield.compress.folder import quantize_folder
from nearfield.compress.place import claimed, made_in_steps, made_whole
from nearfield.compress.plan import Target
from nearfield.core.errors import ConfigError, ModelError
from tests.compress.killed import quantizing
from tests.forked import exit_code
from tests.small_model import CONFIG, linear_names, save_model, small_tensors

W8, W4 = Target("w8"), Target("w4", 64)
PLAIN = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight")


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return save_model(tmp_path / "parent", small_tensors())


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("target", "ends"), [
    (W8, {"weight": (torch.int8, 128), "weight_scale": (torch.float32, 1)}),
    (W4, {"weight_packed": (torch.int32, 16), "weight_scale": (torch.float16, 2), "weight_shape": (torch.int64, 2)})])
def test_layers_become_codes_and_the_rest_stays(target: Target, ends: dict[str, Any], parent: Path,
                                                tmp_path: Path) -> None:
    quantize_folder(parent, tmp_path / "out", target)
    tensors, dense = load_file(tmp_path / "out" / "model.safetensors"), small_tensors()
    coded = {f"{name}.{end}" for name in linear_names() for end in ends}
    assert tensors.keys() == coded | {name for name in dense if name.removesuffix(".weight") not in linear_names()}
    for end, (dtype, width) in ends.items():
        tensor = tensors[f"model.layers.0.mlp.up_proj.{end}"]
        assert (tensor.dtype, tensor.shape[-1]) == (dtype, width)
    for name in PLAIN:
        assert torch.equal(tensors[name], dense[name])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.pop("quantization_config")["quant_method"] == "compressed-tensors" and config == CONFIG


def test_all_other_files_come_along(parent: Path, tmp_path: Path) -> None:
    kept = ("tokenizer.json", "generation_config.json", "chat_template.jinja", "tokenizer.model", "LICENSE")
    for name in (*kept, "pytorch_model.bin", "model.gguf", "consolidated.safetensors"):
        (parent / name).write_bytes(name.encode())
    (parent / "original").mkdir()
    quantize_folder(parent, tmp_path / "out", W4)
    assert listing(tmp_path / "out") == sorted([*kept, "config.json", "model.safetensors", "report.json"])
    assert all((tmp_path / "out" / name).read_text() == name for name in kept)


def test_shards_have_an_index(parent: Path, tmp_path: Path) -> None:
    quantize_folder(parent, tmp_path / "whole", W4)
    quantize_folder(parent, tmp_path / "parts", W4, shard_bytes=50_000)
    shards = sorted((tmp_path / "parts").glob("*.safetensors"))
    found = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index.values()) == {shard.name for shard in shards} and index.keys() == found.keys()
    for name, tensor in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("stored", [("model.embed_tokens.weight",), ("lm_head.weight",),
                                    ("model.embed_tokens.weight", "lm_head.weight")])
def test_a_tied_model_stays_tied(stored: tuple[str, ...], tmp_path: Path) -> None:
    tensors = small_tensors()
    table = tensors.pop("model.embed_tokens.weight")
    del tensors["lm_head.weight"]
    save_model(tmp_path / "parent", {**tensors, **{name: table.clone() for name in stored}}, tie_word_embeddings=True)
    quantize_folder(tmp_path / "parent", tmp_path / "out", W4)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in found and torch.equal(found["model.embed_tokens.weight"], table)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


def test_progress_reaches_its_end(parent: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    quantize_folder(parent, tmp_path / "out", W4, progress=lambda done, total: seen.append((done, total)))
    count = len(small_tensors())
    assert seen == [(i, count) for i in range(count + 1)]


def test_a_folder_that_exists_is_left_alone(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="out: exists already; give a new folder, or remove it first"):
        quantize_folder(parent, tmp_path / "out", W4)
    with pytest.raises(ConfigError, match="nowhere: no such folder; make it first"):
        quantize_folder(parent, tmp_path / "nowhere" / "out", W4)
    assert listing(tmp_path) == ["out", "parent"] and listing(tmp_path / "out") == ["mine"]


def test_a_quantised_folder_is_not_quantised_again(parent: Path, tmp_path: Path) -> None:
    quantize_folder(parent, tmp_path / "out", W4)
    with pytest.raises(ModelError, match="out: is quantised already, as int4, groups of 64"):
        quantize_folder(tmp_path / "out", tmp_path / "again", W8)


def test_columns_that_cannot_be_cut_name_the_tensor_and_what_to_do(tmp_path: Path) -> None:
    tensors = small_tensors()
    for columns, message in ((160, r"128 x 160, which cannot be cut into groups of 64 columns; give --group 32, or "
                                   r"--format w8"), (200, r"128 x 200; .* at least 32 columns, .* serve it as it is")):
        for i in range(2):
            for name, shape in (("gate", (columns, 128)), ("up", (columns, 128)), ("down", (128, columns))):
                tensors[f"model.layers.{i}.mlp.{name}_proj.weight"] = torch.zeros(shape)
        save_model(tmp_path / "parent", tensors, intermediate_size=columns)
        with pytest.raises(ConfigError, match=r"model\.layers\.0\.mlp\.down_proj\.weight is " + message):
            quantize_folder(tmp_path / "parent", tmp_path / "out", W4)
    assert listing(tmp_path) == ["parent"]


@pytest.mark.parametrize(("change", "message"), [
    ({"model.norm.weight": None}, r"tensor model\.norm\.weight is missing; the checkpoint is not complete"),
    ({"model.layers.0.mlp.up_proj.weight": None}, r"tensor model\.layers\.0\.mlp\.up_proj\.weight is missing"),
    ({"model.extra": torch.ones(1)}, r"llama config has no place for 1 of the tensors, the first model\.extra"),
    ({"model.layers.1.mlp.up_proj.weight": torch.ones(3, 128)}, r"up_proj\.weight is \[3, 128\] torch\.float32, "
                                                                r"config\.json makes it \[256, 128\]"),
    ({"model.layers.1.mlp.up_proj.weight": torch.full((256, 128), float("inf"))}, "a number that is not finite"),
])
def test_a_broken_parent_leaves_nothing(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tensors = {**small_tensors(), **change}
    save_model(tmp_path / "parent", {name: t for name, t in tensors.items() if t is not None})
    with pytest.raises(ModelError, match=message):
        quantize_folder(tmp_path / "parent", tmp_path / "out", W4)
    assert listing(tmp_path) == ["parent"]


def test_a_truncated_parent_is_named(parent: Path, tmp_path: Path) -> None:
    file = parent / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors: is not a whole safetensors file .* copy it again"):
        quantize_folder(parent, tmp_path / "out", W4)


def test_too_little_room_is_told_before_anything_is_written(
        parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, 1 << 16))
    with pytest.raises(ConfigError, match=r"needed and 64\.00 KiB free\); nothing is left of it; make room or"):
        quantize_folder(parent, tmp_path / "out", W4)
    assert listing(tmp_path) == ["parent"]


def test_a_weight_past_the_largest_scale_is_refused_in_int4_alone(tmp_path: Path) -> None:
    """int4's scales are fp16, which would clip it to 458,528."""
    tensors, name = small_tensors(), "model.layers.1.mlp.up_proj.weight"
    for value in (7 * 65504, -7.1 * 65504):
        tensors[name] = tensors[name].float()
        tensors[name][3, 5] = value
        save_model(tmp_path / f"{value:.0f}", tensors)
    quantize_folder(tmp_path / "458528", tmp_path / "most", W4)
    assert float(load_file(tmp_path / "most" / "model.safetensors")[name + "_scale"].max()) == 65504
    with pytest.raises(ModelError, match=rf"tensor {name} holds a number of the size 4\.65e\+05; int4, .* --format w8"):
        quantize_folder(tmp_path / "-465078", tmp_path / "out", W4)
    quantize_folder(tmp_path / "-465078", tmp_path / "w8", W8)


def test_a_folder_in_the_models_own_is_refused(parent: Path, tmp_path: Path) -> None:
    """By whatever name: reading the model again would find two."""
    (tmp_path / "link").symlink_to(parent)
    for out in (parent / "out", tmp_path / "link" / "out", parent / ".." / "parent" / "out"):
        with pytest.raises(ConfigError, match="out: would lie in the model's own folder, .*parent; give another place"):
            quantize_folder(parent, out, W4)
    assert listing(parent) == ["config.json", "model.safetensors"]


RUN = "import sys; from nearfield.cli.main import main; sys.exit(main(['quantize', *sys.argv[1:]]))"


def test_a_second_run_on_the_same_folder_is_refused_and_the_first_is_whole(parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize_folder(parent, tmp_path / "alone", W4)

    def again(done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="out is being made by another run; wait for it, or give another folder"):
            quantize_folder(parent, out, W8)

    quantize_folder(parent, out, W4, progress=again)
    for name in set(listing(out)) - {"report.json"}:        # which tells seconds
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert listing(tmp_path) == ["alone", "out", "parent"]


def test_a_folder_that_another_run_finished_meanwhile_is_left_alone(parent: Path, tmp_path: Path) -> None:
    """Both found nothing there when they began."""
    out = tmp_path / "out"
    quantize_folder(parent, out, W4)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="out: exists already"), made_whole(out):
        pass
    with pytest.raises(ConfigError, match="out: exists already"), made_in_steps(out, {"command": "quantize"}):
        pass
    assert (out / "model.safetensors").read_bytes() == before and listing(tmp_path) == ["out", "parent"]


def test_the_lock_is_not_of_a_folder_that_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that had it removes it between another's opening and its locking."""
    real = fcntl.flock
    calls: list[int] = []

    def late(file: int, how: int) -> None:
        if not calls:
            (tmp_path / "out.partial").rmdir()
        calls.append(file)
        real(file, how)

    monkeypatch.setattr("fcntl.flock", late)
    with claimed(tmp_path / "out", None) as partial:
        assert len(calls) == 2
        with pytest.raises(ConfigError, match="being made by another run"), claimed(tmp_path / "out", None):
            pass
        assert partial.is_dir()


def test_a_disk_that_fails_in_the_middle_leaves_nothing(parent: Path, tmp_path: Path) -> None:
    """The kernel refuses to let a file grow past 50 kB: a real failed write."""
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run([sys.executable, "-c", RUN, str(parent), str(tmp_path / "out"), "--format", "w8"],
                          preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be written (File too large); nothing is left of it" in done.stderr
    assert listing(tmp_path) == ["parent"]


def test_a_run_that_was_killed_leaves_no_model_and_the_next_one_succeeds(parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = exit_code(quantizing, parent, out, W4, 5)
    assert killed == -signal.SIGKILL
    assert listing(tmp_path) == ["out.partial", "parent"]
    quantize_folder(parent, out, W4)
    assert listing(tmp_path) == ["out", "parent"]


def test_an_interrupt_leaves_nothing(parent: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_folder(parent, tmp_path / "out", W4, progress=interrupt)
    assert listing(tmp_path) == ["parent"]


def test_a_frequency_table_of_old_checkpoints_is_dropped(tmp_path: Path) -> None:
    tensors = {**small_tensors(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    save_model(tmp_path / "parent", tensors)
    quantize_folder(tmp_path / "parent", tmp_path / "out", W4)
    assert not any("inv_freq" in name for name in load_file(tmp_path / "out" / "model.safetensors"))
