"""Unpacking and converting: the same numbers in another folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from nearfield import LLM
from nearfield.bench.fidelity import run_fidelity
from nearfield.cli.main import main
from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.convert import convert_folder
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import Target
from nearfield.compress.unpack import unpack_folder
from nearfield.core.errors import ConfigError, ModelError
from nearfield.kernels import cpu, select
from nearfield.kernels.reference.quantized import dequantize
from nearfield.layers.attention import dense_inputs
from nearfield.models.decoder import Decoder
from nearfield.models.loader import choose_storage, find_model, load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from tests.gguf_files import write_gguf
from tests.other_layouts import Layer, awq_layer, gptq_layer, random_layer
from tests.small_model import CONFIG, linear_names, save_model, small_tensors

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm",
       "modules_to_not_convert": None}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False,
        "checkpoint_format": "gptq", "lm_head": False, "meta": {"quantizer": ["gptqmodel:2.0"]}}
FP32: dict[str, Any] = {"torch_dtype": "float32"}


def load(folder: Path) -> Decoder:
    """By the reference backend, in fp32."""
    config = Config.load(folder / "config.json")
    spec = read_spec(config)
    return load_decoder(folder, spec, select.plain("fp32"), "fp32", 64, storage=choose_storage(config))


def hidden(decoder: Decoder) -> torch.Tensor:
    return decoder.hidden(dense_inputs(torch.tensor([[3, 14, 15, 9, 26, 5]])))


def other_folder(folder: Path, described: Mapping[str, Any], *, dense: tuple[str, ...] = (),
                 moved: bool = False) -> dict[str, torch.Tensor]:
    """A folder of AWQ or GPTQ with random layers, and the floats of each."""
    tensors, floats = small_tensors(), {}
    for i, (name, (rows, columns)) in enumerate(linear_names().items()):
        if name in dense:
            continue
        del tensors[f"{name}.weight"]
        layer: Layer = random_layer(rows, columns, described["group_size"], described["bits"],
                                    symmetric=bool(described.get("sym")), moved=moved, seed=i)
        made = awq_layer(layer) if described["quant_method"] == "awq" else gptq_layer(layer, "gptq")
        tensors |= {f"{name}.{end}": tensor for end, tensor in made.items()}
        floats[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(layer.floats()))
    save_model(folder, tensors, quantization_config=described, **FP32)
    return floats


@pytest.mark.parametrize(("described", "stored", "formats"), [
    (AWQ, "int4, groups of 64, with zero points (awq)", {"int4"}),
    (GPTQ, "int4, groups of 32, with zero points (gptq)", {"int4"}),
    ({**GPTQ, "sym": True}, "int4, groups of 32 (gptq)", {"int4"}),
    ({**GPTQ, "sym": True, "bits": 8, "group_size": 128}, "int8, groups of 128 (gptq)", {"int8"})])
def test_awq_and_gptq_are_served_unpacked_and_converted_to_the_same_numbers(
        described: dict[str, Any], stored: str, formats: set[str], tmp_path: Path) -> None:
    floats = other_folder(tmp_path / "other", described)
    assert str(choose_storage(Config.load(tmp_path / "other" / "config.json")).manifest) == stored
    made = load(tmp_path / "other")
    assert {linear.weight.format for linear in made.linears()[:-1]} == formats
    assert torch.equal(dequantize(made.layers[1].mlp.down.weight), floats["model.layers.1.mlp.down_proj.weight"])
    unpack_folder(tmp_path / "other", tmp_path / "dense")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert all(torch.equal(dense[name], want) for name, want in floats.items()) and len(floats) == 14
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    assert convert_folder(tmp_path / "other", tmp_path / "standard") == []
    twin = load(tmp_path / "standard")
    assert torch.equal(hidden(made), hidden(twin))
    assert json.loads((tmp_path / "standard" / "report.json").read_text())["convert"]["parent"]["stored"] == stored
    unpack_folder(tmp_path / "standard", tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == dense.keys() and all(torch.equal(again[name], dense[name]) for name in dense)


@pytest.mark.parametrize("described", [AWQ, GPTQ, {**GPTQ, "sym": True, "bits": 8, "group_size": 64}],
                         ids=["awq", "gptq", "gptq-8"])
def test_the_library_reads_converted_layers_to_the_same_floats(described: dict[str, Any], tmp_path: Path) -> None:
    """compressed-tensors, by the scheme that our config.json states, zero points and all. (transformers 5.23 reads no
    folder with zero points: it expects them unpacked.)"""
    floats = other_folder(tmp_path / "other", described)
    convert_folder(tmp_path / "other", tmp_path / "standard")
    config = json.loads((tmp_path / "standard" / "config.json").read_text())["quantization_config"]
    scheme = QuantizationConfig.model_validate(config).config_groups["group_0"]
    assert isinstance(scheme, QuantizationScheme)
    tensors = load_file(tmp_path / "standard" / "model.safetensors")
    for name, want in floats.items():
        module = name.removesuffix("weight")
        stored = {key.removeprefix(module): tensor for key, tensor in tensors.items() if key.startswith(module)}
        stored["weight_scale"] = stored["weight_scale"].float()         # or its product is rounded to fp16
        assert torch.equal(PackedQuantizationCompressor.decompress(stored, scheme)["weight"], want), name


def test_transformers_reads_a_converted_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    floats = other_folder(tmp_path / "other", {**GPTQ, "sym": True})
    convert_folder(tmp_path / "other", tmp_path / "standard")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "standard", dtype=torch.float32)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]))
    for name, want in floats.items():
        assert torch.equal(model.get_parameter(name), want), name


@pytest.mark.parametrize("described", [AWQ, {**GPTQ, "sym": True, "bits": 8, "group_size": 128}], ids=["awq", "gptq-8"])
def test_the_kernels_serve_other_folders(described: dict[str, Any], tmp_path: Path) -> None:
    """Any code, the lowest of int8 too, with int8 activations: near the reference backend's floats."""
    if reason := cpu.missing():
        pytest.skip(reason)
    other_folder(tmp_path / "other", described)
    llm = LLM(tmp_path / "other", tokenizer=None, kv_memory="1MiB", threads=1, dtype="fp32")
    ids = [3, 14, 15, 9, 26, 5, 35, 8, 9]
    decoder = load(tmp_path / "other")
    logits = decoder.logits(decoder.hidden(dense_inputs(torch.tensor([ids[:-1]]))))
    want = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    assert llm.score(ids) == pytest.approx(want.tolist(), abs=0.35)


def test_reordered_columns_become_int8_and_the_error_is_told(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = {**GPTQ, "desc_act": True}
    floats = other_folder(tmp_path / "other", described, moved=True)
    made = load(tmp_path / "other")
    assert {linear.weight.format for linear in made.linears()[:-1]} == {"int8"}
    assert main(["convert", str(tmp_path / "other"), str(tmp_path / "standard")]) == 0
    said = capsys.readouterr().out
    assert "rounded on the way:\n  14 tensors, gptq to int8, groups of 32: a relative error of 0." in said
    assert torch.equal(hidden(made), hidden(load(tmp_path / "standard")))
    assert main(["unpack", str(tmp_path / "other"), str(tmp_path / "dense")]) == 0
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert all(torch.equal(dense[name], want) for name, want in floats.items())


def test_layers_that_were_left_dense_stay_dense(tmp_path: Path) -> None:
    kept = ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj")
    other_folder(tmp_path / "other", {**AWQ, "modules_to_not_convert": ["down_proj"]}, dense=kept)
    convert_folder(tmp_path / "other", tmp_path / "standard")
    made, twin = load(tmp_path / "other"), load(tmp_path / "standard")
    assert [linear.weight.format for linear in twin.linears()[:4]] == ["int4", "int4", "int4", "dense"]
    assert torch.equal(hidden(made), hidden(twin))


def test_biases_of_zeros_that_quantisers_add_are_let_be(tmp_path: Path) -> None:
    other_folder(tmp_path / "other", GPTQ)
    path = tmp_path / "other" / "model.safetensors"
    for value in (0.0, 1.0):
        bias = {"model.layers.0.mlp.up_proj.bias": torch.full((256,), value, dtype=torch.float16)}
        save_file({**load_file(path), **bias}, path)
        if value == 0.0:
            load(tmp_path / "other")
            continue
        with pytest.raises(ModelError, match="no place for 1 of the tensors"):
            load(tmp_path / "other")


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0, Type.Q6_K], ids=lambda kind: kind.name)
def test_a_gguf_file_is_unpacked_and_converted(kind: Type, tmp_path: Path) -> None:
    wide = {**CONFIG, "hidden_size": 256}
    path = tmp_path / "model.gguf"
    floats = write_gguf(path, wide, small_tensors(dtype=torch.float32, width=256), lambda name: kind)
    folder = find_model(path)
    unpack_folder(folder, tmp_path / "dense")
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    assert all(torch.equal(dense[name], want.bfloat16()) for name, want in floats.items()) and len(dense) == len(floats)
    assert not list((tmp_path / "dense").glob("*.gguf"))
    rounded = convert_folder(folder, tmp_path / "standard")
    tables = 2 if kind == Type.Q6_K else 1
    assert [(found.stored, found.made, found.tensors) for found in rounded] == [
        *([(kind.name, "int8, groups of 32", 14)] if tables == 2 else []), (kind.name, "bfloat16", tables)]
    assert all(0 < found.relative_error < 0.01 for found in rounded)
    made, twin = load(folder), load(tmp_path / "standard")
    for one, other in zip(made.linears()[:-1], twin.linears()[:-1], strict=True):
        assert torch.equal(dequantize(one.weight), dequantize(other.weight))
    if kind != Type.Q6_K:       # a head of codes goes over as it is
        assert torch.equal(dequantize(twin.linears()[-1].weight), floats["lm_head.weight"])


@pytest.mark.parametrize("target", [Target("w8"), Target("w4", 32), Target("w4", 64)], ids=str)
def test_quantising_what_was_unpacked_makes_the_same_codes(target: Target, tmp_path: Path) -> None:
    parent = save_model(tmp_path / "parent", small_tensors())
    quantize_folder(parent, tmp_path / "made", target)
    unpack_folder(tmp_path / "made", tmp_path / "dense")
    quantize_folder(tmp_path / "dense", tmp_path / "again", target)
    made, again = (load_file(tmp_path / name / "model.safetensors") for name in ("made", "again"))
    codes = [name for name in made if name.endswith(("weight_packed", "_proj.weight"))]
    assert len(codes) == 14 and all(torch.equal(made[name], again[name]) for name in codes)


def test_what_cannot_be_done_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    parent = save_model(tmp_path / "parent", small_tensors())
    quantize_folder(parent, tmp_path / "made", Target("w4", 64))
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="parent: stores its matrices dense already"):
        unpack_folder(parent, out)
    with pytest.raises(ConfigError, match="made: is in the standard form already; .* unpack makes a dense folder"):
        convert_folder(tmp_path / "made", out)
    with pytest.raises(ConfigError, match="parent: exists already"):
        unpack_folder(tmp_path / "made", parent)
    path = tmp_path / "made" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "strange": torch.ones(1)}, path)
    with pytest.raises(ModelError, match="llama config has no place for 1 of the tensors, the first strange"):
        unpack_folder(tmp_path / "made", out)
    del tensors["model.layers.1.mlp.down_proj.weight_scale"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"down_proj\.weight_scale is missing"):
        unpack_folder(tmp_path / "made", out)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["made", "parent"]


@pytest.mark.parametrize(("words", "message"), [
    (["unpack", "parent", "out"], "parent: stores its matrices dense already; there is nothing to unpack or convert"),
    (["convert", "f16.gguf", "out"], "f16.gguf: is stored dense; nothing is to be converted; nearfield unpack makes"),
    (["quantize", "f16.gguf", "out", "--format", "w4"], "f16.gguf: is a GGUF file, and this needs a folder of safet"),
    (["quantize", "q4.gguf", "out", "--format", "w4"], "q4.gguf: is quantised already, as int4, groups of 32 (gguf)"),
    (["convert", "cut.gguf", "out"], "the file is cut short, copy it again"),
    (["convert", "nothing.gguf", "out"], "nothing.gguf: no such file"),
    (["unpack", "q4.gguf", "no/out"], "no: no such folder; make it first"),
])
def test_mistakes_are_named(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "parent", small_tensors())
    write_gguf(tmp_path / "f16.gguf", CONFIG, small_tensors(dtype=torch.float32), lambda name: Type.F16)
    write_gguf(tmp_path / "q4.gguf", CONFIG, small_tensors(dtype=torch.float32), lambda name: Type.Q4_0)
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "q4.gguf").read_bytes()[:-9])
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf", "f16.gguf", "parent", "q4.gguf"]


def test_a_text_of_before_is_still_one_that_the_model_was_made_by(readable: Path, chats: Path, tmp_path: Path) -> None:
    """Quantised, unpacked, quantised by another text."""
    random = Random(1)
    other = tmp_path / "other.txt"
    other.write_text(" ".join("".join(random.choices("abcdefgh", k=4)) for _ in range(4000)))
    quantize_calibrated(readable, tmp_path / "first", Target("w8"), "gptq", [chats])
    unpack_folder(tmp_path / "first", tmp_path / "dense")
    quantize_calibrated(tmp_path / "dense", tmp_path / "second", Target("w8"), "gptq", [other])
    for text in (chats, other):
        with pytest.raises(ConfigError, match="of its passages are in the text that .*second was made by"):
            run_fidelity(readable, tmp_path / "second", [text], 512, lambda line: None, lambda done, total: None)
