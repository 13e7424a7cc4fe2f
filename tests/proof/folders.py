"""Model folders that are not what they seem: copies of the pocket model with something taken away or changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def changed(source: Path, target: Path, change: Callable[[Tensors], Tensors], **config: object) -> Path:
    """A copy of the model folder `source` with other weights, and other values in its config.json."""
    shutil.copytree(source, target)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings | config))
    (target / "model.safetensors").unlink()
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    return target


def smaller(source: Path, target: Path, layers: int) -> Path:
    """The model's first layers only."""
    def cut(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items()
                if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers}

    return changed(source, target, cut, num_hidden_layers=layers)


def flipped(source: Path, target: Path) -> Path:
    """The sign of one weight of one layer is turned."""
    def flip(tensors: Tensors) -> Tensors:
        weight = tensors["model.layers.3.mlp.down_proj.weight"]
        place = int(weight.abs().argmax())
        weight.view(-1)[place] *= -1
        return tensors

    return changed(source, target, flip)
