"""Numbers on their way through unpacking and converting: those that are none, those that do not fit, those rounded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from nearfield.cli.main import main
from nearfield.compress.convert import convert_folder
from nearfield.compress.unpack import unpack_folder
from nearfield.core.errors import ModelError
from nearfield.models.loader import find_model
from tests.compress.test_unpack import AWQ, FP32, GPTQ, other_folder
from tests.gguf_files import gguf_name, write_gguf
from tests.small_model import CONFIG, save_model, small_tensors

EMBED, NORM, UP = "model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
Made = Callable[..., object]
BOTH = pytest.mark.parametrize("make", [unpack_folder, convert_folder])


def with_number(name: str, value: float) -> dict[str, torch.Tensor]:
    """A model that holds `value` somewhere in the middle of a tensor."""
    tensors = small_tensors(dtype=torch.float32)
    tensors[name].view(-1)[tensors[name].numel() // 2] = value
    return tensors


def kinds(name: str) -> Type:
    """Codes beside floats."""
    return Type.F16 if name in (EMBED, DOWN) else Type.Q8_0


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", [EMBED, NORM, DOWN])
def test_a_number_that_is_none_names_its_tensor(make: Made, name: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, CONFIG, with_number(name, value), kinds)
    with pytest.raises(ModelError, match=rf"^{path}: tensor {gguf_name(name)} holds a number that is not finite; copy"):
        make(find_model(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@BOTH
@pytest.mark.parametrize("described", [AWQ, GPTQ], ids=["awq", "gptq"])
def test_so_does_one_in_a_folder_of_codes(make: Made, described: dict[str, object], tmp_path: Path) -> None:
    other_folder(tmp_path / "other", described)
    path = tmp_path / "other" / "model.safetensors"
    tensors = load_file(path)
    tensors[NORM][3] = torch.nan
    save_file(tensors, path)
    with pytest.raises(ModelError, match=rf"^{path}: tensor {NORM} holds a number that is not finite; copy"):
        make(tmp_path / "other", tmp_path / "out")


def test_the_dtype_holds_the_numbers_of_all_matrices(tmp_path: Path) -> None:
    """1e5 is more than fp16's largest number, which the embeddings are stored in."""
    tensors = with_number(UP, 1e5)
    floats = write_gguf(tmp_path / "model.gguf", CONFIG, tensors, lambda name: Type.F16 if name == EMBED else Type.F32)
    unpack_folder(find_model(tmp_path / "model.gguf"), tmp_path / "out")
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert made.keys() == floats.keys() and all(torch.equal(made[name], want) for name, want in floats.items())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"


@BOTH
def test_a_number_that_does_not_fit_is_named_with_a_remedy(make: Made, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, CONFIG, with_number(NORM, -1e5), kinds)
    with pytest.raises(ModelError, match=rf"^{path}: tensor output_norm\.weight holds a number .* 1e\+05, more "
                                         "than float16, .* convert the original model again with embeddings in BF16"):
        make(find_model(path), tmp_path / "out")
    other_folder(tmp_path / "other", AWQ)
    codes = {name: tensor.float() if name == NORM else tensor
             for name, tensor in load_file(tmp_path / "other" / "model.safetensors").items()}
    codes[NORM][1] = 1e5
    save_model(tmp_path / "other", codes, quantization_config=AWQ, torch_dtype="float16")
    with pytest.raises(ModelError, match=f"tensor {NORM} holds .* float16, .*torch_dtype.*; make that bfloat16"):
        make(tmp_path / "other", tmp_path / "out")


def test_what_is_rounded_to_the_models_dtype_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the error of the numbers themselves, in the report and on the screen."""
    path = tmp_path / "model.gguf"
    floats = write_gguf(path, CONFIG, small_tensors(dtype=torch.float32), lambda name: Type.Q4_0)
    assert main(["convert", str(path), str(tmp_path / "out")]) == 0
    table = floats[EMBED].double()
    want = float((table - table.bfloat16()).norm() / table.norm())
    told = json.loads((tmp_path / "out" / "report.json").read_text())["convert"]["rounded"]
    assert told == [{"stored": "Q4_0", "made": "bfloat16", "tensors": 1, "relative_error": pytest.approx(want)}]
    said = capsys.readouterr().out
    assert f"rounded on the way:\n  1 tensor, Q4_0 to bfloat16: a relative error of {want:.2g}\n" in said


def test_what_goes_over_as_it_is_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other_folder(tmp_path / "other", AWQ)
    assert main(["convert", str(tmp_path / "other"), str(tmp_path / "out")]) == 0
    assert "of weights, all of the same numbers\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["convert"]["rounded"] == []


@BOTH
@pytest.mark.parametrize("described", [AWQ, GPTQ], ids=["awq", "gptq"])
def test_codes_that_cannot_be_cut_name_the_folder(make: Made, described: dict[str, object], tmp_path: Path) -> None:
    config = {**described, "group_size": 16}
    folder = save_model(tmp_path / "other", small_tensors(), quantization_config=config, **FP32)
    with pytest.raises(ModelError, match=rf"^{folder}: model\.layers\..* cannot be cut into words of 8"):
        make(folder, tmp_path / "out")
