"""Serving folders of codes: made here or by the library, whole or broken."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

from nearfield import LLM
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import Target
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.kernels import select
from nearfield.kernels.ops import PackedWeight
from nearfield.kernels.reference.quantized import dequantize
from nearfield.models.decoder import Decoder
from nearfield.models.loader import choose_storage, load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from tests.small_model import linear_names, save_model, small_tensors

W4 = Target("w4", 64)


def load(folder: Path) -> Decoder:
    """The model in `folder` by the reference backend, whose weights keep their codes."""
    config = Config.load(folder / "config.json")
    spec = read_spec(config)
    return load_decoder(folder, spec, select.plain("fp32"), "fp32", 64, storage=choose_storage(config, None, 64))


def inner_weights(decoder: Decoder) -> list[PackedWeight]:
    return [linear.weight for linear in decoder.linears()[:-1]]


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return save_model(tmp_path / "parent", small_tensors())


@pytest.fixture
def made(parent: Path, tmp_path: Path) -> Path:
    """The parent in w4."""
    quantize_folder(parent, tmp_path / "made", W4)
    return tmp_path / "made"


@pytest.mark.parametrize(("target", "packer"), [
    (Target("w8"), Int8()), (Target("w4", 32), Int4(32)), (Target("w4", 128), Int4(128))], ids=["w8", "w4-32", "w4"])
def test_codes_and_scales_are_those_of_quantising_at_load(
        target: Target, packer: Any, parent: Path, tmp_path: Path) -> None:
    quantize_folder(parent, tmp_path / "made", target)
    dense = small_tensors()
    for i, weight in enumerate(inner_weights(load(tmp_path / "made"))):
        layer = f"model.layers.{i // 4}"
        names = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
                 ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))[i % 4]
        want = packer.pack(torch.cat([dense[f"{layer}.{name}.weight"] for name in names]))
        assert weight.format == want.format and weight.shape == want.shape
        assert torch.equal(weight.tensors["codes"], want.tensors["codes"])
        assert torch.equal(weight.tensors["scales"], want.tensors["scales"])


def test_embeddings_and_head_become_int8(made: Path) -> None:
    decoder = load(made)
    assert decoder.embed.weight.format == decoder.head.weight.format == "int8"
    assert not torch.equal(decoder.embed.weight.tensors["codes"], decoder.head.weight.tensors["codes"])


def library_folder(folder: Path, group: int, *, ignore: tuple[str, ...] = ("lm_head",)) -> dict[str, torch.Tensor]:
    """A folder that the library compressed, and the floats that it reads from each of its layers."""
    args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    tensors, floats = small_tensors(), {}
    for name, (rows, _) in linear_names().items():
        if name in ignore:
            continue
        dense = tensors.pop(f"{name}.weight").float()
        parts = dense.view(rows, -1, group)
        scale, _ = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
        stored = PackedQuantizationCompressor.compress(
            {"weight": dense, "weight_scale": scale.bfloat16().float()}, scheme)
        floats[name] = PackedQuantizationCompressor.decompress(stored, scheme)["weight"]
        stored["weight_scale"] = scale.bfloat16()
        tensors |= {f"{name}.{end}": tensor for end, tensor in stored.items()}
    config = QuantizationConfig(config_groups={"group_0": scheme}, format="pack-quantized", ignore=list(ignore),
                                quantization_status=QuantizationStatus.COMPRESSED)
    save_model(folder, tensors, quantization_config=config.model_dump(mode="json"))
    return floats


@pytest.mark.parametrize("group", [32, 128])
def test_a_folder_of_the_library_is_read_to_its_floats(group: int, tmp_path: Path) -> None:
    floats = library_folder(tmp_path / "model", group)
    weights = inner_weights(load(tmp_path / "model"))
    assert torch.equal(dequantize(weights[3]), floats["model.layers.0.mlp.down_proj"])
    qkv = [floats[f"model.layers.1.self_attn.{name}_proj"] for name in "qkv"]
    assert torch.equal(dequantize(weights[4]), torch.cat(qkv))


def test_layers_may_be_left_dense_but_not_a_part_of_a_matrix(tmp_path: Path) -> None:
    library_folder(tmp_path / "down", 64, ignore=("lm_head", "model.layers.1.mlp.down_proj"))
    formats = [weight.format for weight in inner_weights(load(tmp_path / "down"))]
    assert formats == ["int4"] * 7 + ["dense"]
    library_folder(tmp_path / "up", 64, ignore=("lm_head", "model.layers.1.mlp.up_proj"))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.gate_proj is stored as int4, groups of 64 and "
                                         r"model\.layers\.1\.mlp\.up_proj as dense, .* quantise both alike"):
        load(tmp_path / "up")


def test_transformers_reads_our_folder_to_the_same_floats(made: Path) -> None:
    """By the library, at its first step."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]))
    weights = inner_weights(load(made))
    for i, weight in ((3, weights[3]), (7, weights[7])):
        assert torch.equal(model.model.layers[i // 4].mlp.down_proj.weight, dequantize(weight))
    attention = model.model.layers[0].self_attn
    joint = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    assert torch.equal(joint, dequantize(weights[0]))
    assert torch.equal(model.lm_head.weight, small_tensors()["lm_head.weight"].float())


def rewrite(folder: Path, change: Mapping[str, torch.Tensor | None]) -> None:
    """Set tensors of a folder's file, or with None take them out."""
    tensors = {**load_file(folder / "model.safetensors"), **change}
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "model.safetensors")


UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(("end", "tensor", "message"), [
    ("weight_scale", None, rf"tensor {UP}\.weight_scale is missing; the checkpoint is not complete"),
    ("weight_packed", None, rf"tensor {UP}\.weight_packed is missing"),
    ("weight_packed", torch.zeros(256, 8, dtype=torch.int32), rf"{UP}\.weight_packed is \[256, 8\], .* \[256, 16\]"),
    ("weight_packed", torch.zeros(256, 16), rf"{UP}\.weight_packed is torch\.float32, .* torch\.int32"),
    ("weight_scale", torch.ones(256, 2, dtype=torch.int8), rf"{UP}\.weight_scale is torch\.int8"),
    ("weight_shape", torch.tensor([128, 256]), rf"{UP}\.weight_shape says \[128, 256\]"),
    ("weight_g_idx", torch.zeros(128, dtype=torch.int32), rf"no place for 1 .* {UP}\.weight_g_idx"),
    ("weight", torch.zeros(256, 128), "no place for 1 of the tensors"),
])
def test_a_broken_layer_is_named(end: str, tensor: torch.Tensor | None, message: str, made: Path) -> None:
    rewrite(made, {f"{UP}.{end}": tensor})
    with pytest.raises(ModelError, match=message):
        load(made)


def test_a_truncated_shard_is_named(parent: Path, tmp_path: Path) -> None:
    quantize_folder(parent, tmp_path / "made", W4, shard_bytes=40_000)
    shards = sorted((tmp_path / "made").glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    with pytest.raises(ModelError, match=rf"{shards[1].name}: is not a whole safetensors file .* copy it again"):
        load(tmp_path / "made")


def test_quantised_embeddings_are_refused(made: Path) -> None:
    config = json.loads((made / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["targets"].append("Embedding")
    (made / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="model.embed_tokens is stored as int4.*leave them dense"):
        load(made)


def test_a_head_of_codes_is_read(made: Path) -> None:
    """Some folders quantise the head too, where it is not the table of embeddings."""
    config = json.loads((made / "config.json").read_text())
    config["quantization_config"]["ignore"] = []
    (made / "config.json").write_text(json.dumps(config))
    weight = Int4(64).pack(small_tensors()["lm_head.weight"])
    rewrite(made, {"lm_head.weight": None, "lm_head.weight_packed": weight.tensors["codes"].view(torch.int32),
                   "lm_head.weight_scale": weight.tensors["scales"], "lm_head.weight_shape": torch.tensor([64, 128])})
    assert torch.equal(dequantize(load(made).head.weight), dequantize(weight))


@pytest.mark.parametrize("weights", ["dense", "w8", "w4"])
def test_codes_are_not_made_again(weights: Any, made: Path) -> None:
    with pytest.raises(ConfigError, match=r"made: is quantised already, as int4, groups of 64 .* leave --weights out"):
        LLM(made, weights=weights, tokenizer=None, kv_memory="1MiB")


def test_random_weights_are_as_the_option_says(made: Path) -> None:
    llm = LLM(made, weights="w8", tokenizer=None, random_weights=True, kv_memory="1MiB", threads=1)
    assert llm.loaded.model.layers[0].mlp.down.weight.format == "int8"
