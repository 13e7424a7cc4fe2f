"""What an analysis says single weights cost, against the outputs themselves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nearfield.compress.analyze import analyze, half_of_row, two_of_four
from nearfield.compress.prune.folder import CHUNKS, LEAST
from nearfield.compress.text import read_text
from nearfield.core.errors import ModelError
from nearfield.models.tokenizer import load_tokenizer
from tests.compress.prune_models import LENGTH, make_parent, make_text

SCORES = torch.rand(6, 20, generator=torch.Generator().manual_seed(0))


def test_half_of_each_row_is_the_larger_half() -> None:
    for row, kept in zip(SCORES, half_of_row(SCORES), strict=True):
        assert int(kept.sum()) == 10 and row[kept].min() > row[~kept].max()
    assert half_of_row(SCORES[:, :5]).sum(1).tolist() == [3] * 6


def test_two_of_every_four_are_the_larger_two() -> None:
    kept = two_of_four(SCORES)
    for row, mask in zip(SCORES.view(-1, 4), kept.view(-1, 4), strict=True):
        assert int(mask.sum()) == 2 and row[mask].min() > row[~mask].max()


def test_errors_are_those_of_the_outputs(tmp_path: Path) -> None:
    """By transformers' own inputs of each matrix, and Wanda's score by its definition."""
    parent = make_parent("qwen2", tmp_path / "parent")
    text = make_text(tmp_path / "text.txt")
    found = analyze(tmp_path / "parent", [text])
    chunks = read_text([text], load_tokenizer(tmp_path / "parent"), CHUNKS, LENGTH, LEAST).chunks
    inputs: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        def hear(module: Any, given: tuple[Tensor, ...]) -> None:
            inputs[name] = given[0].flatten(0, 1).double()
        return hear

    modules = {name: module for name, module in parent.named_modules() if name.endswith("_proj")}
    for name, module in modules.items():
        module.register_forward_pre_hook(listen(name))
    with torch.inference_mode():
        parent(chunks)
    for layer in found["layers"]:
        for told in layer["matrices"]:
            names = [name.removesuffix(".weight") for name in told["of"]]
            dense = torch.cat([modules[name].weight.detach().double() for name in names])
            x = inputs[names[0]]
            wanda = dense.abs() * x.norm(dim=0)
            for method, kept in (("magnitude", half_of_row(dense.abs())), ("wanda", half_of_row(wanda)),
                                 ("wanda_2_of_4", two_of_four(wanda))):
                lost = (x @ (dense * ~kept).T).square().mean() / (x @ dense.T).square().mean()
                assert told[method] == pytest.approx(float(lost), rel=2e-2), (names, method)
            assert told["wanda"] < told["wanda_2_of_4"]


@pytest.mark.parametrize(("name", "value", "message"), [
    ("layers.0.mlp.up_proj.weight", float("nan"),
     r"tensor model.layers.0.mlp.up_proj.weight holds a number that is not finite; such a model cannot be analysed"),
    ("layers.2.mlp.down_proj.weight", float("-inf"), r"tensor model.layers.2.mlp.down_proj.weight holds a number"),
    ("layers.2.mlp.down_proj.weight", 3e38, "layer 2 makes numbers of the calibration text that are not finite")])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float, message: str, tmp_path: Path) -> None:
    make_parent("llama", tmp_path / "parent")
    file = tmp_path / "parent" / "model.safetensors"
    tensors = load_file(file)
    tensors[f"model.{name}"][0] = value
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=message):
        analyze(tmp_path / "parent", [make_text(tmp_path / "text.txt")])
