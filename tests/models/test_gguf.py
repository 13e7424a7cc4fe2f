"""Serving GGUF files, written by the `gguf` library: its floats, its names, its order of rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from nearfield import LLM
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.codecs import ROUNDED
from nearfield.formats.dense import Dense
from nearfield.formats.gguf import GgufFile
from nearfield.formats.int8 import Int8
from nearfield.kernels import cpu, select
from nearfield.layers.attention import dense_inputs
from nearfield.layers.rotary import RopeSpec, frequencies
from nearfield.models.decoder import Decoder
from nearfield.models.gguf_folder import LINK
from nearfield.models.loader import Storage, choose_storage, find_model, load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from nearfield.models.weights import Formats
from tests.gguf_files import write_gguf
from tests.small_model import CONFIG, save_model, small_tensors

IDS = torch.tensor([3, 14, 15, 9, 26, 5])
TINY: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False}
RAMP = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
FAMILIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {"rms_norm_eps": 1e-5}),
    "llama-tied-biases": (transformers.LlamaConfig, {
        "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama-3-rope": (transformers.LlamaConfig, {"rope_parameters": RAMP, "head_dim": 16}),
    "llama-linear-rope": (transformers.LlamaConfig, {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}),
    "mistral": (transformers.MistralConfig, {"sliding_window": None, "head_dim": 16}),
    "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 16}),
}


def load(model: Path, storage: Storage | None = None) -> Decoder:
    """By the reference backend, in fp32."""
    folder = find_model(model)
    config = Config.load(folder / "config.json")
    spec = read_spec(config)
    return load_decoder(folder, spec, select.plain("fp32"), "fp32", 64, storage=storage or choose_storage(config))


def logits(decoder: Decoder) -> torch.Tensor:
    return decoder.logits(decoder.hidden(dense_inputs(IDS[None])))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_each_family_is_the_model_that_it_was_made_of(family: str, tmp_path: Path) -> None:
    """To the same bits: the floats of an F32 file are the folder's, and must come to the same places."""
    make, changes = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    model = transformers.AutoModelForCausalLM.from_config(make(**{**TINY, **changes}))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.15)
    model.save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    config["rope_theta"] = rope.get("rope_theta", 10000.0)
    keys: dict[str, Any] = {}
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    if rope.get("rope_type") == "linear":
        keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path, extra = tmp_path / "model.gguf", {}
    if rope.get("rope_type") == "llama3":
        extra["rope_freqs.weight"] = (frequencies(RopeSpec(500000.0), 16)
                                      / frequencies(RopeSpec(500000.0, "ramp", 32.0), 16)).float()
    write_gguf(path, config, tensors, lambda name: Type.F32, extra=extra, **keys)
    made, want = load(path), load(tmp_path / "folder")
    assert made.spec.rope == want.spec.rope and made.spec.norm_eps == pytest.approx(want.spec.norm_eps, rel=1e-6)
    assert torch.equal(logits(made), logits(want))
    assert find_model(path).name == "model"


def only(kind: Type, others: Type = Type.F16) -> Callable[[str], Type]:
    """Matrices of the layers are of one type, and tables of another."""
    return lambda name: kind if name.startswith("model.layers.") else others


@pytest.fixture
def wide() -> dict[str, torch.Tensor]:
    """A model whose rows are whole blocks of 256."""
    return small_tensors(dtype=torch.float32, width=256)


WIDE = {**CONFIG, "hidden_size": 256, "intermediate_size": 256}


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q4_0, Type.Q8_0, Type.Q4_1, Type.Q5_0, Type.Q5_1,
                                  Type.Q4_K, Type.Q5_K, Type.Q6_K], ids=lambda kind: kind.name)
def test_each_type_means_what_it_means_to_the_library(
        kind: Type, wide: dict[str, torch.Tensor], tmp_path: Path) -> None:
    floats = write_gguf(tmp_path / "model.gguf", WIDE, wide, only(kind))
    twin = save_model(tmp_path / "twin", floats, **{**WIDE, "torch_dtype": "float32"})
    made = load(tmp_path / "model.gguf")
    exact, dense = kind in (Type.Q4_0, Type.Q8_0), kind in (Type.F16, Type.BF16)
    table = Dense() if dense else Int8()
    want = load(twin, Storage(Formats(Dense() if exact or dense else ROUNDED, table, "twin")))
    formats = {linear.weight.format for linear in made.linears()[:-1]}
    assert formats == {"dense" if dense else "int4" if kind == Type.Q4_0 else "int8"}
    assert torch.equal(logits(made), logits(want))


def test_a_mixture_becomes_what_holds_all_of_its_parts(wide: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """As llama.cpp mixes: values and the head finer than the rest; int4 beside int8 becomes int8 exactly."""
    def kind(name: str) -> Type:
        return Type.Q8_0 if "v_proj" in name or name == "lm_head.weight" else Type.Q4_0
    floats = write_gguf(tmp_path / "model.gguf", WIDE, wide, kind)
    twin = save_model(tmp_path / "twin", floats, **{**WIDE, "torch_dtype": "float32"})
    made = load(tmp_path / "model.gguf")
    want = load(twin, Storage(Formats(Dense(), Int8(), "twin")))
    assert [linear.weight.format for linear in made.linears()] == ["int8", "int4", "int4", "int4"] * 2 + ["int8"]
    assert choose_storage(Config.load(find_model(tmp_path / "model.gguf") / "config.json")).names(made.spec) == (
        "int8", "int4")
    hidden = made.hidden(dense_inputs(IDS[None]))
    assert torch.equal(hidden, want.hidden(dense_inputs(IDS[None])))
    assert torch.equal(made.logits(hidden), hidden @ floats["lm_head.weight"].T)


def test_the_kernels_serve_a_file(tmp_path: Path) -> None:
    if reason := cpu.missing():
        pytest.skip(reason)
    floats = write_gguf(tmp_path / "model.gguf", CONFIG, small_tensors(dtype=torch.float32), only(Type.Q4_0))
    save_model(tmp_path / "twin", floats, torch_dtype="float32")
    made, twin = (LLM(tmp_path / name, tokenizer=None, kv_memory="1MiB", threads=1, dtype="fp32")
                  for name in ("model.gguf", "twin"))
    assert made.loaded.name == "model" and str(made.loaded.ops.profile).startswith("cpu-w4a8")
    ids = IDS.tolist() * 5
    assert made.score(ids) == pytest.approx(twin.score(ids), rel=0.05)      # activations are int8 in one
    packed = LLM(tmp_path / "model.gguf", tokenizer=None, kv_memory="1MiB", threads=1, dtype="fp32")
    assert packed.score(ids) == made.score(ids)


def test_codes_are_not_made_again_and_a_dense_file_takes_weights(tmp_path: Path) -> None:
    write_gguf(tmp_path / "q.gguf", CONFIG, small_tensors(dtype=torch.float32), only(Type.Q8_0))
    with pytest.raises(ConfigError, match=r"is quantised already, as int8, groups of 32 \(gguf\)"):
        LLM(tmp_path / "q.gguf", weights="w4", tokenizer=None, kv_memory="1MiB")
    write_gguf(tmp_path / "f.gguf", CONFIG, small_tensors(dtype=torch.float32), only(Type.F16))
    llm = LLM(tmp_path / "f.gguf", weights="w8", tokenizer=None, kv_memory="1MiB", threads=1)
    assert llm.loaded.model.layers[0].mlp.down.weight.format == "int8"


def test_a_folder_of_one_file_is_that_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", CONFIG, small_tensors(dtype=torch.float32), only(Type.F16))
    assert find_model(tmp_path) == find_model(tmp_path / "a.gguf")
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"holds 2 models, a\.gguf, b\.gguf; name one"):
        find_model(tmp_path)


def test_a_file_that_changed_is_another_folder_and_one_that_is_gone_leaves_none(tmp_path: Path) -> None:
    path, tensors = tmp_path / "a.gguf", small_tensors(dtype=torch.float32)
    write_gguf(path, CONFIG, tensors, only(Type.F16))
    first = find_model(path)
    assert find_model(path) == first and (first / LINK).resolve() == path
    write_gguf(path, {**CONFIG, "rope_theta": 5e5}, tensors, only(Type.F16))
    assert find_model(path) != first
    path.unlink()
    write_gguf(tmp_path / "b.gguf", CONFIG, tensors, only(Type.F16))
    find_model(tmp_path / "b.gguf")
    assert not first.exists()


@pytest.mark.parametrize(("keys", "message"), [
    ({"general.architecture": "mamba"}, "general.architecture 'mamba' is not supported; supported: llama"),
    ({"general.architecture": "gemma2"}, "general.architecture 'gemma2' is not supported; supported: llama"),
    ({"llama.expert_count": 8}, "llama.expert_count is set, which is not supported"),
    ({"llama.block_count": None}, "llama.block_count must be a positive whole number, is None"),
    ({"llama.block_count": 1 << 24}, "llama.block_count is 16777216, but the file has the tensors of 2"),
    ({"llama.attention.head_count": [4, 4]}, r"llama.attention.head_count must be a positive whole number, is \[4"),
    ({"llama.rope.dimension_count": 16}, "rope.dimension_count is not the size of a head"),
    ({"llama.attention.value_length": 16}, "value_length is not the size of a key"),
    ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type 'yarn' is not supported; supported: none, linear"),
    ({"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon must be a positive number"),
    ({"llama.attention.head_count": 3}, "num_attention_heads 3 is not a multiple"),
    ({"split.count": 3}, r"is one of 3 parts; merge them .*--merge"),
    ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model 't5' is not supported; supported: 'gpt2', 'llama'"),
    ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.tokens must be a list of str"),
])
def test_what_is_not_supported_names_file_and_key(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, CONFIG, small_tensors(dtype=torch.float32), only(Type.F16), **keys)
    with pytest.raises(ModelError, match=message) as caught:
        find_model(path)
    assert str(caught.value).startswith(str(path))


def test_missing_foreign_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    tensors = small_tensors(dtype=torch.float32)
    path = tmp_path / "model.gguf"
    for change, message in (
            ({"model.layers.1.mlp.up_proj.weight": None},
             "model.gguf: tensor blk.1.ffn_up.weight is missing; the file is not"),
            ({"model.norm.weight": None}, "model.gguf: tensor output_norm.weight is missing"),
            ({"model.embed_tokens.weight": None}, "tensor token_embd.weight is missing"),
            ({"model.norm.weight": torch.ones(64)}, r"output_norm.weight is \[64\], the file's keys make it \[128\]"),
            ({"model.layers.7.mlp.up_proj.weight": torch.ones(32, 32)}, "block_count is 2, but .* of 3"),
            ({"model.layers.1.self_attn.q_norm.weight": torch.ones(32)},
             "has no place for 1 of the tensors, the first .*; give the config that")):
        changed = {name: t for name, t in {**tensors, **change}.items() if t is not None}
        for kind in (Type.F16, Type.Q8_0):
            write_gguf(path, CONFIG, changed, only(kind))
            with pytest.raises(ModelError, match=message):
                load(path)


def test_codes_beside_floats_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, CONFIG, small_tensors(dtype=torch.float32),
               lambda name: Type.F16 if "up_proj" in name else Type.Q8_0)
    with pytest.raises(ModelError, match=rf"^{path}: model\.layers\.0\.mlp\.gate_proj is stored as int8, .* as dense"):
        load(path)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q5_0, Type.F32])
def test_numbers_that_are_none_name_the_file_and_its_tensor(kind: Type, tmp_path: Path) -> None:
    """Of codes that are taken as they are, of those that are rounded, and of floats that become codes at load."""
    path, name = tmp_path / "model.gguf", "blk.1.attn_v.weight"
    write_gguf(path, CONFIG, small_tensors(dtype=torch.float32), only(kind))
    at = GgufFile.read(path).tensors[name].offset
    data = bytearray(path.read_bytes())
    data[at:at + 4] = bytes([0xFF, 0x7E, 0xFF, 0x7F])          # a NaN as fp16 and as fp32
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"{path}: tensor {name}(?!.*a matrix).* not finite"):
        LLM(path, weights="w8" if kind == Type.F32 else None, dtype="fp32", tokenizer=None, kv_memory="4MiB",
            pack_cache=False)


@pytest.mark.parametrize(("kind", "said"), [(Type.Q4_0, []), (Type.Q5_0, ["stored as Q5_0 are rounded to int8"])])
def test_codes_that_are_rounded_are_told(kind: Type, said: list[str], tmp_path: Path,
                                         caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, CONFIG, small_tensors(dtype=torch.float32), only(kind))
    LLM(path, tokenizer=None, kv_memory="4MiB", pack_cache=False)
    assert len(caplog.messages) == len(said)
    assert all(word in message and str(path) in message for word, message in zip(said, caplog.messages, strict=True))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf: no such file$"):
        find_model(tmp_path / "none.gguf")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_a_model_or_a_model_error(tmp_path: Path, data: st.DataObject) -> None:
    path, damaged = tmp_path / "whole.gguf", tmp_path / "damaged.gguf"
    if not path.exists():
        write_gguf(path, CONFIG, small_tensors(dtype=torch.float32), only(Type.Q4_0))
    made = bytearray(path.read_bytes())
    header = min(tensor.offset for tensor in GgufFile.read(path).tensors.values())
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(24, header + 1000))] = data.draw(st.integers(0, 255))
    damaged.write_bytes(made)
    try:
        load(damaged)
    except ModelError:
        pass


def test_unknown_types_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", torch.zeros(2, 84, dtype=torch.uint8).numpy(), raw_dtype=Type.Q2_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"tensor token_embd.weight is Q2_K, which is not supported; supported: F32, .*"
                                         r"Quantise the original model to one of these"):
        find_model(path)
