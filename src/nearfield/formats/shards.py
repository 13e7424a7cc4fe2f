"""Writing safetensors tensor by tensor: what will be written is told first, so that nothing waits in memory.

A file is the length of its header (8 bytes), the header in JSON (each tensor's dtype, shape and place), and the
bytes of the tensors. Wider dtypes come first in a file, so that each tensor begins at a multiple of its own
width. Several files have an index, model.safetensors.index.json.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from nearfield.formats.checkpoint import DTYPES, Entry

SHARD_BYTES = 2 * 10**9
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class ShardWriter:
    """Writes the tensors `entries` into `folder`, in any order, each once; leaving the block ends the files.

    A file holds up to `limit` bytes of tensors, or one tensor that is larger. Raises OSError as writing does.
    """

    def __init__(self, folder: Path, entries: Mapping[str, Entry], limit: int = SHARD_BYTES) -> None:
        self._folder, self._entries = folder, entries
        self._shards = _shards(entries, limit)
        count = len(self._shards)
        self._names = ["model.safetensors"] if count == 1 else [
            f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        self._files: list[BinaryIO] = []
        self._places: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> "ShardWriter":
        for i, names in enumerate(self._shards):
            header, offsets = _header({name: self._entries[name] for name in names})
            self._files.append((self._folder / self._names[i]).open("wb"))
            self._files[i].write(header)
            self._places |= {name: (i, len(header) + offset) for name, offset in offsets.items()}
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the tensor called `name`. Raises ValueError where it is not the one that was told, or comes twice."""
        entry = self._entries[name]
        if tuple(tensor.shape) != entry.shape or tensor.dtype != entry.dtype:
            raise ValueError(f"tensor {name} is {list(tensor.shape)} {tensor.dtype}, not {entry}")
        if name not in self._places:
            raise ValueError(f"tensor {name} has been written already")
        shard, place = self._places.pop(name)
        self._files[shard].seek(place)
        self._files[shard].write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in self._files:
                file.close()

    def _finish(self) -> None:
        """All of it is on the disk, or it is an error."""
        if self._places:
            raise ValueError(f"{len(self._places)} tensors were not written, the first {next(iter(self._places))}")
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        if len(self._files) > 1:
            where = {name: self._names[i] for i, names in enumerate(self._shards) for name in names}
            index = {"metadata": {"total_size": sum(e.nbytes for e in self._entries.values())}, "weight_map": where}
            (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def file_bytes(entries: Mapping[str, Entry], limit: int = SHARD_BYTES) -> int:
    """Bytes of the files of weights that a ShardWriter will make."""
    return sum(len(_header({name: entries[name] for name in names})[0]) + sum(entries[name].nbytes for name in names)
               for names in _shards(entries, limit))


def _shards(entries: Mapping[str, Entry], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, entry in entries.items():
        if shards[-1] and size + entry.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += entry.nbytes
    return shards


def _header(entries: Mapping[str, Entry]) -> tuple[bytes, dict[str, int]]:
    """The bytes before the tensors, and where after them each begins."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets, at = {}, 0
    for name in sorted(entries, key=lambda name: -entries[name].dtype.itemsize):
        entry = entries[name]
        offsets[name] = at
        described[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape),
                           "data_offsets": [at, at + entry.nbytes]}
        at += entry.nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets
