"""Pruned folders: transformers reads them as we do, what went is what should, and all of it is there or none."""

import json
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from nearfield.compress.prune.folder import CHUNKS, LEAST, prune_folder
from nearfield.compress.prune.options import PruneOptions
from nearfield.compress.text import read_text
from nearfield.core.errors import ConfigError, ModelError
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from nearfield.models.tokenizer import load_tokenizer
from tests.compress.killed import pruning
from tests.compress.prune_models import LENGTH, make_parent, make_text
from tests.forked import exit_code
from tests.models.test_parity import FAMILIES, load, paged_logits, reference_logits

IDS = torch.randint(3, 250, (50,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return make_text(tmp_path / "text.txt")


def by_transformers(folder: Path) -> Any:
    """The model in `folder`, of which every tensor was found and used."""
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    model, told = loaded
    assert not any(told.values()), told
    return model.eval()


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())["prune"]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_the_folder_as_we_do(family: str, tmp_path: Path, text: Path) -> None:
    make_parent(family, tmp_path / "parent")
    spec = read_spec(Config.load(tmp_path / "parent" / "config.json"))
    out = tmp_path / "out"
    prune_folder(tmp_path / "parent", out, PruneOptions(ffn=0.7, layers=-1, heads=-(spec.num_kv_heads // 2)), [text])
    made = load(out)
    assert (made.spec.num_layers, made.spec.intermediate_size) == (2, 64)
    assert (made.spec.num_heads, made.spec.num_kv_heads) == (spec.num_heads // 2, spec.num_kv_heads // 2)
    assert made.spec.head_dim == spec.head_dim and made.spec.windows == tuple(
        window for i, window in enumerate(spec.windows) if i not in report(out)["layers"]["dropped"])
    want, got = reference_logits(by_transformers(out), IDS), paged_logits(made, IDS, [50])
    assert (got - want).abs().max() <= 1e-3


@pytest.mark.parametrize("family", ["qwen2", "llama-biases", "qwen3"])
def test_uncompensated_it_is_the_parent_with_zeros(family: str, tmp_path: Path, text: Path) -> None:
    """transformers' own parent, with zeros behind what went, says the same: heads and channels went as wholes."""
    parent = make_parent(family, tmp_path / "parent")
    prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.7, heads=-1, compensate=False), [text])
    pruned = by_transformers(tmp_path / "out")
    with torch.no_grad():
        for old, new in zip(parent.model.layers, pruned.model.layers, strict=True):
            for rows, matrix in ((("mlp", "up_proj"), ("mlp", "down_proj")),
                                 (("self_attn", "q_proj"), ("self_attn", "o_proj"))):
                before, after = (getattr(getattr(layer, rows[0]), rows[1]).weight for layer in (old, new))
                gone = ~(before[:, None] == after[None]).all(-1).any(1)
                assert int(gone.sum()) == len(before) - len(after) > 0
                getattr(getattr(old, matrix[0]), matrix[1]).weight[:, gone] = 0
    assert (reference_logits(parent, IDS) - reference_logits(pruned, IDS)).abs().max() <= 1e-4


def test_ranks_and_measured_divergences_are_what_transformers_finds(tmp_path: Path, text: Path) -> None:
    parent = make_parent("llama", tmp_path / "parent")
    prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(layers=-1), [text])
    told = report(tmp_path / "out")["layers"]
    tokenizer = load_tokenizer(tmp_path / "parent")
    chunks = read_text([text], tokenizer, CHUNKS, LENGTH, LEAST).chunks
    with torch.inference_mode():
        states = parent(chunks, output_hidden_states=True).hidden_states
        for i in range(2):                                        # transformers tells the last one behind the norm
            turned = 1 - functional.cosine_similarity(states[i], states[i + 1], dim=-1).mean()
            assert told["influence"][i] == pytest.approx(float(turned), rel=1e-3)
        picked = chunks[::len(chunks) // 8][:8]
        base, made = (model(picked).logits[:, LENGTH // 2:].double().log_softmax(-1)
                      for model in (parent, by_transformers(tmp_path / "out")))
    (measured,) = told["measured"]
    kl = float((base.exp() * (base - made)).sum(-1).mean())
    assert measured["kl_without"][str(measured["dropped"])] == pytest.approx(kl, rel=1e-3)
    assert kl == pytest.approx(min(measured["kl_without"].values()), rel=1e-3) and len(measured["kl_without"]) == 3
    assert told["dropped"] == [measured["dropped"]]


def test_layers_beyond_those_that_are_measured_go_by_rank(tmp_path: Path, text: Path) -> None:
    make_parent("qwen3", tmp_path / "parent")
    more = {}
    for name, tensor in load_file(tmp_path / "parent" / "model.safetensors").items():
        more[name] = tensor
        if name.startswith("model.layers."):
            number, _, rest = name.removeprefix("model.layers.").partition(".")
            more[f"model.layers.{int(number) + 3}.{rest}"] = tensor * 1.1
    save_file(more, tmp_path / "parent" / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "parent" / "config.json").read_text())
    config |= {"num_hidden_layers": 6, "layer_types": config["layer_types"] * 2}
    (tmp_path / "parent" / "config.json").write_text(json.dumps(config))
    prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(layers=-4), [text])
    told = report(tmp_path / "out")["layers"]
    ranked = sorted(range(6), key=lambda i: told["influence"][i])
    assert set(ranked[:2]) <= set(told["dropped"]) and len(told["dropped"]) == 4 and len(told["measured"]) == 2
    assert all(set(step["kl_without"]) <= {str(i) for i in ranked[2:]} for step in told["measured"])
    assert (reference_logits(by_transformers(tmp_path / "out"), IDS)
            - paged_logits(load(tmp_path / "out"), IDS, [50])).abs().max() <= 1e-3


def test_fitting_to_the_old_output_keeps_more_of_the_model(tmp_path: Path, text: Path) -> None:
    """By divergence from the parent, on other text than was fitted to, and by the errors that the report tells."""
    parent = make_parent("llama", tmp_path / "parent")
    ids = load_tokenizer(tmp_path / "parent").encode(make_text(tmp_path / "more.txt", 3000).read_text())[-LENGTH:]
    base, found = reference_logits(parent, ids).double().log_softmax(-1), {}
    for compensate in (True, False):
        out = tmp_path / f"out-{compensate}"
        prune_folder(tmp_path / "parent", out, PruneOptions(ffn=0.7, compensate=compensate), [text])
        made = reference_logits(by_transformers(out), ids).double().log_softmax(-1)
        found[compensate] = float((base.exp() * (base - made)).sum(-1).mean())
        errors = [layer["channels"] for layer in report(out)["width"]]
        assert all((each["error"] < each["error_uncompensated"]) == compensate for each in errors)
    assert found[True] < found[False]


def test_the_report_tells_what_was_done(tmp_path: Path, text: Path) -> None:
    make_parent("llama", tmp_path / "parent")
    (tmp_path / "parent" / "report.json").write_text('{"earlier": {}, "fidelity": {}}')
    prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.7, heads=-1), [text])
    whole = json.loads((tmp_path / "out" / "report.json").read_text())
    told = whole["prune"]
    assert whole.keys() == {"earlier", "prune"}
    assert told["recipe"] == {"ffn": 0.7, "layers": None, "heads": -1, "compensate": True}
    assert (told["before"], told["after"]) == ({"layers": 3, "inner": 96, "kv_heads": 2},
                                               {"layers": 3, "inner": 64, "kv_heads": 1})
    assert told["parent"]["sha256"].keys() == {"config.json", "model.safetensors"}
    assert told["calibration"]["sha256"].keys() == {"text.txt"} and told["calibration"]["passages"]
    size = sum(t.numel() * t.element_size() for t in load_file(tmp_path / "out" / "model.safetensors").values())
    assert told["bytes"]["after"] == size < told["bytes"]["before"]
    assert [layer["layer"] for layer in told["width"]] == [0, 1, 2] and told["seconds"] >= 0


def test_a_run_that_was_killed_continues_to_the_same_bits(tmp_path: Path, text: Path) -> None:
    """Killed as layers are ranked, as one is measured, and as they are walked through: of 3 + 3 + 2 layers."""
    make_parent("qwen2", tmp_path / "parent")
    options = PruneOptions(ffn=0.7, layers=-1, heads=-1)
    prune_folder(tmp_path / "parent", tmp_path / "whole", options, [text])
    out = tmp_path / "out"
    for done in (2, 5, 7):
        killed = exit_code(pruning, tmp_path / "parent", out, options, text, done, torch.get_num_threads())
        assert killed == -signal.SIGKILL and not out.exists()
        assert not (tmp_path / "out.partial" / "config.json").exists()
    seen: list[tuple[int, int]] = []
    prune_folder(tmp_path / "parent", out, options, [text], progress=lambda *each: seen.append(each))
    assert seen == [(0, 8), (7, 8), (8, 8)]                      # one layer was left to be walked through
    assert not (tmp_path / "out.partial").exists()
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again, first = report(out), report(tmp_path / "whole")
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_another_run_does_not_continue_this_one(tmp_path: Path, text: Path) -> None:
    make_parent("qwen2", tmp_path / "parent")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.7), [text], progress=stop)
    before = sorted((tmp_path / "out.partial").rglob("*"))
    with pytest.raises(ConfigError, match=r"out\.partial: has what another run \(prune with another recipe\) finished"):
        prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.35), [text])
    assert sorted((tmp_path / "out.partial").rglob("*")) == before


def broken(folder: Path, name: str, change: Any) -> None:
    tensors: dict[str, Tensor] = load_file(folder / "model.safetensors")
    change(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(("name", "value", "options", "message"), [
    ("model.layers.1.mlp.down_proj.weight", float("nan"), PruneOptions(ffn=0.7),
     r"tensor model.layers.1.mlp.down_proj.weight holds a number that is not finite; such a model cannot be pruned"),
    ("model.layers.0.mlp.up_proj.weight", float("inf"), PruneOptions(ffn=0.7),
     "tensor model.layers.0.mlp.up_proj.weight holds a number that is not finite; such a model cannot be pruned"),
    ("model.layers.1.input_layernorm.weight", float("nan"), PruneOptions(ffn=0.7),
     "layers.1.self_attn.q_proj: its input, computed from the calibration text, is not finite"),
    ("model.layers.1.mlp.up_proj.weight", 3e38, PruneOptions(layers=-1),
     "layer 1 makes numbers of the calibration text that are not finite; the checkpoint is damaged"),
])
def test_numbers_that_are_not_finite_stop_it(name: str, value: float, options: PruneOptions, message: str,
                                             tmp_path: Path, text: Path) -> None:
    make_parent("llama", tmp_path / "parent")
    broken(tmp_path / "parent", name, lambda tensor: tensor.fill_(value))
    with pytest.raises(ModelError, match=message):
        prune_folder(tmp_path / "parent", tmp_path / "out", options, [text])
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").exists() == (options.layers is None and "layers.1" in name)  # layer 0 is finished


def test_channels_that_never_speak_are_the_first_to_go(tmp_path: Path, text: Path) -> None:
    """H is singular then."""
    make_parent("llama", tmp_path / "parent")
    broken(tmp_path / "parent", "model.layers.1.mlp.up_proj.weight", lambda tensor: tensor[::3].zero_())
    prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.7), [text])
    up = load_file(tmp_path / "out" / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    assert len(up) == 64 and bool(up.any(1).all())
    assert report(tmp_path / "out")["width"][1]["channels"]["error"] < 1e-6


def test_a_text_that_says_one_thing_only_is_fitted_without_fault(tmp_path: Path) -> None:
    """Every chunk is alike: H has fewer dimensions than the layer's inputs."""
    make_parent("llama", tmp_path / "parent")
    (tmp_path / "a.txt").write_text("a" * 10 * LENGTH)
    prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.7, heads=-1), [tmp_path / "a.txt"])
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path, text: Path) -> None:
    parent, out = tmp_path / "parent", tmp_path / "out"
    make_parent("llama-mha-tied", parent)
    short = make_text(tmp_path / "short.txt", 7 * LENGTH)
    some = PruneOptions(ffn=0.7)
    with pytest.raises(ConfigError, match="there is nothing to prune"):
        prune_folder(parent, out, PruneOptions(), [])
    with pytest.raises(ConfigError, match="pruning looks at text: give --calibration FILE"):
        prune_folder(parent, out, some, [])
    with pytest.raises(ConfigError, match=f"448 tokens, {LEAST * LENGTH} are needed at least .*; give more text"):
        prune_folder(parent, out, some, [short])
    with pytest.raises(ConfigError, match=r"not a multiple of its heads, 7; key/value heads that can stay: 1, 2, 4"):
        prune_folder(parent, out, PruneOptions(heads=-1), [text])
    with pytest.raises(ConfigError, match="--layers -3: the model has 3 layers, and one must stay"):
        prune_folder(parent, out, PruneOptions(layers=-3), [text])
    with pytest.raises(ConfigError, match="parent: exists already"):
        prune_folder(parent, parent, some, [text])
    with pytest.raises(ConfigError, match="sub: would lie in the model's own folder"):
        prune_folder(parent, parent / "sub", some, [text])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parent", "short.txt", "text.txt"]


@pytest.mark.parametrize("options", [PruneOptions(layers=-1), PruneOptions(ffn=0.7, heads=-1)])
def test_too_little_room_is_told_before_anything_is_computed(options: PruneOptions, tmp_path: Path, text: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size that the model will have, to the byte."""
    make_parent("llama", tmp_path / "parent")
    usage = namedtuple("usage", "total used free")
    seen: list[int] = []
    prune_folder(tmp_path / "parent", tmp_path / "alone", options, [text])
    need = report(tmp_path / "alone")["bytes"]["after"]
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, need - 1))
    with pytest.raises(ConfigError, match=r"out: cannot be written \(.* needed and .* free\); nothing is left of it"):
        prune_folder(tmp_path / "parent", tmp_path / "out", options, [text],
                     progress=lambda done, total: seen.append(done))
    assert seen in ([], [0]) and not (tmp_path / "out.partial").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, need))
    prune_folder(tmp_path / "parent", tmp_path / "out", options, [text])


def test_a_disk_that_fails_keeps_what_was_finished(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_parent("llama", tmp_path / "parent")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device", "model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr("nearfield.compress.prune.folder.write_dense", full)
        with pytest.raises(ConfigError, match=r"No space left on device\); make room, and the same command continues"):
            prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.7), [text])
    assert not (tmp_path / "out").exists()
    seen: list[tuple[int, int]] = []
    prune_folder(tmp_path / "parent", tmp_path / "out", PruneOptions(ffn=0.7), [text],
                 progress=lambda *each: seen.append(each))
    assert seen == [(0, 3)] and (tmp_path / "out" / "config.json").exists()
