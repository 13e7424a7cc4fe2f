"""Mixed precision of a size, and tables as codes: what is written, and who reads it to which floats."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import IntQuantizationCompressor, PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from safetensors.torch import load_file

from nearfield import LLM
from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.fit import Fit
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import PROFILES, Target
from nearfield.core.errors import ConfigError
from nearfield.formats.int8 import Int8
from nearfield.kernels import cpu, select
from nearfield.kernels.reference.quantized import dequantize
from nearfield.layers.attention import dense_inputs
from nearfield.models.decoder import Decoder
from nearfield.models.loader import choose_storage, load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from tests.compress.conftest import readable_tensors, save_readable

FUSED = (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
         ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))


def load(folder: Path) -> Decoder:
    config = Config.load(folder / "config.json")
    return load_decoder(folder, read_spec(config), select.plain("fp32"), "fp32", 64, storage=choose_storage(config))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


def by_library(folder: Path) -> dict[str, torch.Tensor]:
    """The floats that the library reads, by layer, each by the group of the config that names it."""
    config, tensors = QuantizationConfig.model_validate(config_of(folder)), load_file(folder / "model.safetensors")
    layers = {name.rsplit(".", 1)[0] for name in tensors if name.endswith("weight_scale")}
    found = {}
    for scheme in config.config_groups.values():
        assert isinstance(scheme, QuantizationScheme)
        layout = scheme.format or config.format
        compressor = PackedQuantizationCompressor if layout == "pack-quantized" else IntQuantizationCompressor
        for layer in layers:
            kind = "Embedding" if layer == "model.embed_tokens" else "Linear"
            if layer in scheme.targets or (kind in scheme.targets and layer != "lm_head"):
                held = {end: tensors[f"{layer}.{end}"] for end in ("weight", "weight_packed", "weight_scale",
                                                                   "weight_shape") if f"{layer}.{end}" in tensors}
                assert layer not in found
                held["weight_scale"] = held["weight_scale"].float()     # of whose dtype the library's floats are
                found[layer] = compressor.decompress(held, scheme)["weight"]
    assert found.keys() == layers
    return found


@pytest.fixture
def bounds(readable: Path, tmp_path: Path) -> tuple[int, int]:
    """The sizes of w4 with the largest groups, and of w8."""
    for name, target in (("small", Target("w4", 128)), ("large", Target("w8"))):
        quantize_folder(readable, tmp_path / name, target)
    return size(tmp_path / "small"), size(tmp_path / "large")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 2.0])
def test_files_fit_and_fused_matrices_are_alike(
        share: float, readable: Path, chats: Path, bounds: tuple[int, int], tmp_path: Path) -> None:
    wanted = int(bounds[0] + share * (bounds[1] - bounds[0])) + 600     # a header names more where schemes differ
    out = tmp_path / "out"
    quantize_calibrated(readable, out, Fit(wanted), "gptq", [chats])
    assert size(out) <= wanted
    sites = json.loads((out / "report.json").read_text())["quantize"]["sites"]
    stored = {name: site["stored"] for site in sites for name in site["matrices"]}
    for i in range(2):
        for names in FUSED:
            assert len({stored[f"model.layers.{i}.{name}.weight"] for name in names}) == 1
    if share == 2.0:
        assert set(stored.values()) == {"int8, a scale a row"}
    if share == 0.5:
        assert len(set(stored.values())) > 1
    floats, inner = by_library(out), load(out).linears()[:-1]
    for i, linear in enumerate(inner):
        parts = [floats[f"model.layers.{i // 4}.{name}"] for name in FUSED[i % 4]]
        assert torch.equal(dequantize(linear.weight).float(), torch.cat(parts).float())


def test_more_room_leaves_less_error(readable: Path, chats: Path, bounds: tuple[int, int], tmp_path: Path) -> None:
    errors = []
    for share in (0.05, 0.5, 0.95):
        out = tmp_path / f"out-{share}"
        wanted = int(bounds[0] + share * (bounds[1] - bounds[0])) + 600
        quantize_calibrated(readable, out, Fit(wanted), "gptq", [chats])
        want, found = states(readable), states(out)
        errors.append(float((want - found).square().mean()))
    assert errors[0] > errors[1] > errors[2]


@torch.inference_mode()
def states(folder: Path) -> torch.Tensor:
    return load(folder).hidden(dense_inputs(torch.arange(3, 43)[None] * 11))


def test_what_cannot_fit_tells_the_smallest_that_can(
        readable: Path, chats: Path, bounds: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"fit .* bytes\); the smallest possible is .* \({bounds[0]} bytes\); give "
                                          rf"--fit {bounds[0]}, or --profile compact"):
        quantize_calibrated(readable, tmp_path / "out", Fit(bounds[0] - 1), "gptq", [chats])
    assert not (tmp_path / "out.partial").exists()
    quantize_calibrated(readable, tmp_path / "out", Fit(bounds[0]), "gptq", [chats])
    assert size(tmp_path / "out") == bounds[0]
    with pytest.raises(ConfigError, match=r"fit 1000 B; the smallest possible is .* give --fit \d+$"):
        quantize_calibrated(readable, tmp_path / "other", Fit(1000, "compact"), "gptq", [chats])


def test_what_cannot_fit_leaves_alone_what_another_run_has_finished(
        readable: Path, chats: Path, bounds: tuple[int, int], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_calibrated(readable, tmp_path / "out", Fit(bounds[1]), "gptq", [chats], progress=stop)
    before = sorted(tmp_path.rglob("out.partial/*/*"))
    with pytest.raises(ConfigError, match="cannot be made to fit"):
        quantize_calibrated(readable, tmp_path / "out", Fit(1000), "gptq", [chats])
    assert sorted(tmp_path.rglob("out.partial/*/*")) == before != []


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("form", ["w8", "w4"])
def test_compact_tables_are_those_that_loading_makes(form: str, tied: bool, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in readable_tensors().items() if not (tied and name == "lm_head.weight")}
    parent = save_readable(tmp_path / "parent", tensors, tie_word_embeddings=tied)
    for profile in PROFILES:
        quantize_folder(parent, tmp_path / profile, Target(form, 64, profile))
    assert size(tmp_path / "compact") < 0.7 * size(tmp_path / "vllm")
    config = config_of(tmp_path / "compact")
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert targets == [["Linear"], ["Embedding"], *([] if tied else [["lm_head"]])]
    assert config["ignore"] == (["lm_head"] if tied else [])
    made, usual, floats = load(tmp_path / "compact"), load(tmp_path / "vllm"), by_library(tmp_path / "compact")
    tables = [("model.embed_tokens", made.embed.weight, usual.embed.weight)]
    if not tied:
        tables.append(("lm_head", made.head.weight, usual.head.weight))
    for name, weight, at_load in tables:
        assert weight.format == at_load.format == "int8"
        assert all(torch.equal(tensor, at_load.tensors[end]) for end, tensor in weight.tensors.items())
        assert torch.equal(dequantize(weight), floats[name].float())
        assert torch.equal(weight.tensors["codes"], Int8().pack(tensors[f"{name}.weight"]).tensors["codes"])


def test_a_compact_folder_of_a_size_serves(readable: Path, chats: Path, tmp_path: Path) -> None:
    if reason := cpu.missing():
        pytest.skip(reason)
    quantize_folder(readable, tmp_path / "w8", Target("w8", profile="compact"))
    wanted = int(0.9 * size(tmp_path / "w8"))
    quantize_calibrated(readable, tmp_path / "out", Fit(wanted, "compact"), "gptq", [chats])
    assert size(tmp_path / "out") <= wanted and config_of(tmp_path / "out")["format"] == "mixed-precision"
    ids = list(range(5, 45))
    scores = [LLM(folder, kv_memory="4MiB", threads=1).score(ids) for folder in (readable, tmp_path / "out")]
    assert scores[0] != scores[1] and sum(map(abs, (a - b for a, b in zip(*scores, strict=True)))) / len(ids) < 1.0


def test_transformers_reads_a_mixed_folder_to_the_same_floats(readable: Path, chats: Path, tmp_path: Path,
                                                              bounds: tuple[int, int]) -> None:
    from transformers import AutoModelForCausalLM

    quantize_calibrated(readable, tmp_path / "out", Fit(sum(bounds) // 2), "gptq", [chats])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]))
    for i, linear in enumerate(load(tmp_path / "out").linears()[:-1]):
        layer = model.model.layers[i // 4]
        parts = [layer.get_submodule(name).weight for name in FUSED[i % 4]]
        assert torch.equal(torch.cat(parts).float(), dequantize(linear.weight))
