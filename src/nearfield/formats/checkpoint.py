"""Reading the tensors of a Hugging Face folder: model.safetensors, or an index and its shards.

Only safetensors: other files of weights can run code when opened.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nearfield.core.errors import ModelError

INDEX = "model.safetensors.index.json"
"""The file that says which of several files of weights holds a tensor."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
          "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
          "BOOL": torch.bool}
"""The dtypes by the names that safetensors has for them."""


def dtype_name(dtype: torch.dtype) -> str:
    """As config.json has it."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Entry:
    """What a tensor is, without its bytes."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


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

    def place(self, name: str) -> str:
        """The file of a tensor, and its name, for messages."""
        return f"{self._files.get(name, self.folder)}: tensor {name}"

    def kind(self, name: str) -> str:
        """How a tensor is stored, such as float16."""
        return dtype_name(self.entry(name).dtype)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor called `name`, checked to be of `shape`, converted to `dtype`."""
        tensor = self.stored(name)
        if tuple(tensor.shape) != shape:
            raise self._misshapen(name, tensor, shape)
        if not tensor.is_floating_point():
            raise ModelError(f"{self._files[name]}: tensor {name} is {tensor.dtype}; only floating point is supported")
        return tensor.to(dtype)

    def read_exact(self, name: str, shape: tuple[int, ...], dtypes: Collection[torch.dtype]) -> Tensor:
        """The tensor called `name` as it is stored, checked to be of `shape` and of one of `dtypes`."""
        tensor = self.stored(name)
        if tuple(tensor.shape) != shape:
            raise self._misshapen(name, tensor, shape)
        if tensor.dtype not in dtypes:
            wanted = " or ".join(str(dtype) for dtype in dtypes)
            raise ModelError(f"{self._files[name]}: tensor {name} is {tensor.dtype}, "
                             f"the format that config.json names makes it {wanted}")
        return tensor

    def stored(self, name: str) -> Tensor:
        """The tensor called `name`, whatever it is."""
        with self._reading(name) as file:
            tensor: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]  # safetensors has no stubs
        return tensor

    def entry(self, name: str) -> Entry:
        """What the tensor called `name` is; its bytes are not read."""
        with self._reading(name) as file:
            part = file.get_slice(name)  # type: ignore[no-untyped-call]
            shape, dtype = tuple(part.get_shape()), part.get_dtype()
        if dtype not in DTYPES:
            raise ModelError(f"{self._files[name]}: tensor {name} is {dtype}; supported: {', '.join(DTYPES)}")
        return Entry(shape, DTYPES[dtype])

    @contextmanager
    def _reading(self, name: str) -> Iterator[safe_open]:
        """The open file that holds `name`; what goes wrong with it becomes a ModelError."""
        if name not in self._files:
            raise ModelError(f"{self.folder}: tensor {name} is missing; the checkpoint is not complete")
        path = self._files[name]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            yield self._open[path]
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: tensor {name} cannot be read ({error}); copy the file again") from None

    def _misshapen(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> ModelError:
        return ModelError(f"{self._files[name]}: tensor {name} is {list(tensor.shape)}, "
                          f"config.json makes it {list(shape)}")


def _locate(folder: Path) -> dict[str, Path]:
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.exists():
        return _read_index(index)
    if single.exists():
        return dict.fromkeys(_tensor_names(single), single)
    if file := next(folder.glob("*.gguf"), None):
        raise ModelError(f"{file.resolve()}: is a GGUF file, and this needs a folder of safetensors; make one first: "
                         "nearfield unpack")
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
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
