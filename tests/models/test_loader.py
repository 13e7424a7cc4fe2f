"""Finding and reading model folders, and what is said of those that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nearfield.core.errors import ModelError
from nearfield.kernels import select
from nearfield.models.generation import GenerationDefaults, read_generation
from nearfield.models.loader import find_model, load_decoder, pocket_folder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": True}


def write(folder: Path, **changes: Any) -> Config:
    data = {k: v for k, v in {**CONFIG, **changes}.items() if v != "absent"}
    (folder / "config.json").write_text(json.dumps(data))
    return Config.load(folder / "config.json")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A whole checkpoint of CONFIG, in `folder`."""
    tensors = {"model.embed_tokens.weight": torch.randn(32, 16), "model.norm.weight": torch.ones(16)}
    for i in range(2):
        layer = f"model.layers.{i}"
        for name, shape in {"self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16),
                            "self_attn.o_proj": (16, 16), "mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16),
                            "mlp.down_proj": (16, 24)}.items():
            tensors[f"{layer}.{name}.weight"] = torch.randn(shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{name}.weight"] = torch.ones(16)
    save_file(tensors, folder / "model.safetensors")
    return tensors


def load(folder: Path) -> None:
    spec = read_spec(Config.load(folder / "config.json"))
    load_decoder(folder, spec, select.build("fp32"), "fp32", 64)


def test_an_unknown_family_is_named_with_those_supported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'lama' is not supported \(did you mean 'llama'\?\); "
                                         r"supported: llama, mistral, qwen2, qwen3"):
        read_spec(write(tmp_path, model_type="lama"))
    with pytest.raises(ModelError, match="model_type None"):
        read_spec(write(tmp_path, model_type="absent"))


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": -16}, "hidden_size must be a positive whole number, is -16"),
    ({"hidden_size": "16"}, "hidden_size must be a positive"),
    ({"vocab_size": True}, "vocab_size must be a positive"),
    ({"num_hidden_layers": 1e9}, "num_hidden_layers must be"),
    ({"num_key_value_heads": 3}, "4 is not a multiple of num_key_value_heads 3"),
    ({"head_dim": 3}, "head_dim 3 is odd"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    ({"rms_norm_eps": "x"}, "rms_norm_eps must be a positive number"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "type 'yarn' is not supported; supported: default"),
    ({"rope_scaling": []}, "ok"),
    ({"rope_scaling": 5}, "rope_scaling must be an object"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters differ by kind of layer"),
    ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": "2"}, "max_window_layers must be"),
    ({"model_type": "mistral", "layer_types": [{}, {}]}, "layer_types must list 2"),
    ({"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"]}, "layer_types must list 2"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_broken_config_names_the_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = write(tmp_path, **change)
    if message == "ok":
        assert read_spec(config).rope.scaling == "none"
        return
    with pytest.raises(ModelError, match=r"config\.json: ") as caught:
        read_spec(config)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", '"x"', "\xff"])
def test_a_config_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, "latin-1")
    with pytest.raises(ModelError, match=r"config\.json"):
        Config.load(tmp_path / "config.json")


def test_windows_of_each_layer(tmp_path: Path) -> None:
    def windows(**changes: Any) -> tuple[int | None, ...]:
        return read_spec(write(tmp_path, sliding_window=8, **changes)).windows

    assert windows(model_type="mistral") == (8, 8)
    assert windows(model_type="qwen2") == (None, None)
    assert windows(model_type="qwen2", use_sliding_window=True, max_window_layers=1) == (None, 8)
    assert windows(model_type="qwen2", use_sliding_window=True, max_window_layers=0) == (8, 8)
    assert windows(model_type="qwen3", use_sliding_window=True,
                   layer_types=["sliding_attention", "full_attention"]) == (8, None)
    assert windows(model_type="llama") == (None, None)
    assert read_spec(write(tmp_path, model_type="mistral")).windows == (4096, 4096)
    assert read_spec(write(tmp_path, model_type="mistral", sliding_window=None)).windows == (None, None)


def test_defaults_of_a_family_are_those_of_transformers(tmp_path: Path) -> None:
    assert read_spec(write(tmp_path, model_type="qwen3")).head_dim == 128
    assert read_spec(write(tmp_path, model_type="llama")).head_dim == 4
    newer = read_spec(write(tmp_path, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}))
    assert (newer.rope.theta, newer.rope.scaling, newer.rope.factor) == (7.0, "linear", 2.0)


def test_a_whole_checkpoint_loads_and_its_faults_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    tensors = weights(tmp_path)
    load(tmp_path)
    save_file({**tensors, "model.layers.7.extra": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no place for 1 of the tensors, the first model\.layers\.7\.extra"):
        load(tmp_path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        load(tmp_path)


def test_a_tied_table_is_found_under_either_name(tmp_path: Path) -> None:
    write(tmp_path)
    tensors = weights(tmp_path)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    load(tmp_path)
    save_file({**tensors, "model.embed_tokens.weight": tensors["lm_head.weight"].clone()},
              tmp_path / "model.safetensors")
    load(tmp_path)
    write(tmp_path, tie_word_embeddings=False)
    save_file({k: v for k, v in tensors.items() if k != "lm_head.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"embed_tokens\.weight is missing"):
        load(tmp_path)


def test_what_is_not_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ModelError, match="is a file; give the model's folder"):
        find_model(file)
    for name in ("nowhere", "./a/b", "a/b/c", "/no/such"):
        with pytest.raises(ModelError, match="no such folder, and not a hub id"):
            find_model(name)
    with pytest.raises(ModelError, match=r"owner/name: no such folder here, not in the hub's cache"):
        find_model("owner/name")
    assert find_model(None) == pocket_folder()


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    write(snapshot)
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    assert find_model("owner/name") == snapshot


GENERATION: list[tuple[dict[str, Any], GenerationDefaults]] = [
    ({}, GenerationDefaults(eos_ids=(2,))),
    ({"temperature": 0.6, "top_p": 0.9, "top_k": 50, "do_sample": True, "eos_token_id": [5, 2]},
     GenerationDefaults(0.6, 0.9, 50, None, (5, 2))),
    ({"eos_token_id": 5}, GenerationDefaults(eos_ids=(5,))),
    ({"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.1},
     GenerationDefaults(0.0, None, None, 1.1, (2,))),
]


@pytest.mark.parametrize(("data", "want"), GENERATION)
def test_generation_defaults(data: dict[str, Any], want: GenerationDefaults, tmp_path: Path) -> None:
    write(tmp_path, eos_token_id=2)
    (tmp_path / "generation_config.json").write_text(json.dumps(data))
    assert read_generation(tmp_path) == want


@pytest.mark.parametrize(
    "data", [{"temperature": "hot"}, {"top_k": -1}, {"eos_token_id": "x"}, {"eos_token_id": [True]}])
def test_broken_generation_defaults_are_named(data: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match=r"generation_config\.json: " + next(iter(data))):
        read_generation(tmp_path)


def test_nothing_of_a_folder_is_run(tmp_path: Path) -> None:
    write(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model"})
    weights(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    load(tmp_path)
    assert load_file(tmp_path / "model.safetensors")


def test_the_pocket_model_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("pocket") == find_model(None)
    (tmp_path / "pocket").mkdir()
    assert find_model("pocket") == Path("pocket")   # a folder of one's own comes first
