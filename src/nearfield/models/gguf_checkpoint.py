"""The tensors of a GGUF file under the names, and in the order of rows, that a folder of safetensors has them in."""

from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.gguf import GgufFile
from nearfield.formats.gguf_blocks import unpack
from nearfield.models.gguf_config import ROPE_FREQS, family, file_name, standard_name

_CHUNK = 1 << 22
"""Weights that are made floats at once."""


class GgufCheckpoint:
    """As formats.checkpoint.Checkpoint, of one file. Matrices that are stored in blocks are read either as floats
    (`read`), or as the blocks, uint8 [rows, bytes of a row] (`read_exact`). Raises ModelError."""

    def __init__(self, path: Path) -> None:
        self._file = GgufFile.read(path, words=False)
        self._turned = family(self._file).turned
        self._heads = {"q_proj": "head_count", "k_proj": "head_count_kv"}
        self._names = {standard_name(name): name for name in self._file.tensors if name != ROPE_FREQS}

    def names(self) -> Iterator[str]:
        """Every tensor's name."""
        return iter(self._names)

    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self._file.path,)

    def place(self, name: str) -> str:
        """The file, and what it calls a tensor, for messages."""
        return f"{self._file.path}: tensor {self._names.get(name, name)}"

    def kind(self, name: str) -> str:
        """How a tensor is stored, such as Q6_K."""
        return self._file.tensors[self._known(name)].block.name

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor called `name`, checked to be of `shape`, in `dtype`."""
        found = self._file.tensors[self._known(name)]
        if found.shape != shape:
            raise self._misshapen(name, found.shape, shape)
        return self._floats(name, dtype)

    def stored(self, name: str) -> Tensor:
        """The tensor called `name`, fp32 where it is stored in blocks."""
        return self._floats(name, self._file.tensors[self._known(name)].block.dtype or torch.float32)

    def _floats(self, name: str, dtype: torch.dtype) -> Tensor:
        found = self._file.tensors[self._names[name]]
        raw = self._file.raw(self._names[name])
        made = torch.empty(len(raw), found.shape[-1], dtype=dtype)
        rows = max(1, _CHUNK // max(1, found.shape[-1]))
        for first in range(0, len(raw), rows):
            made[first:first + rows] = unpack(found.block, raw[first:first + rows])
        return self._ordered(name, made).view(found.shape)

    def read_exact(self, name: str, shape: tuple[int, ...], dtypes: Collection[torch.dtype]) -> Tensor:
        """The blocks of the matrix called `name`, checked to be of `shape`."""
        raw = self._file.raw(self._known(name))
        if tuple(raw.shape) != shape:
            raise self._misshapen(name, tuple(raw.shape), shape)
        return self._ordered(name, raw)

    def _known(self, name: str) -> str:
        if name not in self._names:
            raise ModelError(f"{self._file.path}: tensor {file_name(name)} is missing; the file is not complete, copy "
                             "it again")
        return self._names[name]

    def _misshapen(self, name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> ModelError:
        return ModelError(f"{self._file.path}: tensor {self._names[name]} is {list(found)}, the file's keys make it "
                          f"{list(shape)}")

    def _ordered(self, name: str, rows: Tensor) -> Tensor:
        """Rows [N, ...] of Q and K from pairs of neighbours back to two halves of a head; others as they are."""
        part = next((part for part in self._heads if f".{part}." in name), None)
        if part is None or not self._turned:
            return rows
        flat = rows.view(-1, 1) if name.endswith(".bias") else rows
        data = self._file.metadata
        heads = data.get(f"{data['general.architecture']}.attention.{self._heads[part]}",
                         data.get(f"{data['general.architecture']}.attention.head_count"))
        assert isinstance(heads, int)       # gguf_config.py has read it
        return flat.view(heads, -1, 2, flat.shape[1]).transpose(1, 2).reshape(rows.shape)
