"""Reading the tensors of a Hugging Face folder: model.safetensors, or an index and its shards.

Only safetensors: other files of weights can run code when opened.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nearfield.core.errors import ModelError

INDEX = "model.safetensors.index.json"
"""The file that says which of several files of weights holds a tensor."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class Checkpoint:
    """The tensors of a folder by name; nothing is read until it is asked for.

    Raises ModelError, naming the file, for a folder without safetensors, a missing or broken shard.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _locate(folder)
        self._open: dict[Path, safe_open] = {}

    def names(self) -> Iterator[str]:
        """Every tensor's name."""
        return iter(self._files)

    def files(self) -> tuple[Path, ...]:
        """The files of weights, each once."""
        return tuple(dict.fromkeys(self._files.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor called `name`, checked to be of `shape`, converted to `dtype`."""
        if name not in self._files:
            raise ModelError(f"{self.folder}: tensor {name} is missing; the checkpoint is not complete")
        path = self._files[name]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            tensor: Tensor = self._open[path].get_tensor(name)  # type: ignore[no-untyped-call]  # safetensors has no stubs
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: tensor {name} cannot be read ({error}); copy the file again") from None
        if tuple(tensor.shape) != shape:
            raise ModelError(f"{path}: tensor {name} is {list(tensor.shape)}, config.json makes it {list(shape)}")
        if not tensor.is_floating_point():
            raise ModelError(f"{path}: tensor {name} is {tensor.dtype}; only floating point is supported")
        return tensor.to(dtype)


def _locate(folder: Path) -> dict[str, Path]:
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.exists():
        return _read_index(index)
    if single.exists():
        return dict.fromkeys(_tensor_names(single), single)
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES)
    if pickles:
        raise ModelError(f"{folder}: has {pickles[0]} but no safetensors. Pickled weights can run code "
                         "when opened and are never loaded; convert them to model.safetensors first")
    raise ModelError(f"{folder}: has no model.safetensors and no model.safetensors.index.json; other files of "
                     "weights are not loaded, since pickles can run code when opened")


def _read_index(index: Path) -> dict[str, Path]:
    try:
        entries = json.loads(index.read_text("utf-8"))["weight_map"]
        files = {str(name): index.parent / Path(file).name for name, file in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index}: is not an index of safetensors; copy the file again") from None
    present: dict[Path, set[str]] = {}
    for path in dict.fromkeys(files.values()):
        if not path.exists():
            raise ModelError(f"{path}: is named in {index.name} but missing; the checkpoint is not complete")
        present[path] = set(_tensor_names(path))
    for name, path in files.items():
        if name not in present[path]:
            raise ModelError(f"{path}: tensor {name} is named in {index.name} but not in the file")
    return files


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as handle:
            return list(handle.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: is not a whole safetensors file ({error}); copy it again") from None
