"""A GGUF file: its metadata and its tensors by name, as they are stored.

The file is a header (magic, version, counts), keys with typed values, a table of tensors, and their bytes, each
aligned. Source: the GGUF specification of ggml (docs/gguf.md), versions 2 and 3. It is read here and not by the
`gguf` library, which believes every count that a file states: here each length is held against the bytes that are left
before anything is taken, so that a truncated or hostile file ends in a ModelError.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.gguf_blocks import BLOCKS, OTHER_TYPES, Block

MAGIC = b"GGUF"
SUFFIX = ".gguf"
MAX_ITEMS = 1 << 24
"""Items of an array: no vocabulary has as many."""

Value = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8",
            12: "<f8"}
_FLOAT32, _BOOL, _STRING, _ARRAY = 6, 7, 8, 9
_MAX_DIMS, _ALIGNMENT = 4, 32
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies, and how: `shape` in the order of torch (the file has the fastest dimension first)."""

    shape: tuple[int, ...]
    block: Block
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """What the header of the file at `path` says, and the sha256 of its bytes."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GgufTensor]
    digest: str

    @classmethod
    def read(cls, path: Path, *, words: bool = True) -> "GgufFile":
        """Read the header; words=False leaves lists of strings out: a vocabulary takes a second, the rest nothing.

        Raises ModelError for a file that is not a whole GGUF file, or holds unknown types.
        """
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(path, data, words).read()
        except (OSError, ValueError) as error:      # ValueError: of an empty file
            raise ModelError(f"{path}: cannot be read ({error}); copy the file again") from None

    def raw(self, name: str) -> Tensor:
        """The bytes of a tensor: uint8 [rows, bytes of a row], all dimensions but the last in one."""
        found = self.tensors[name]
        made = torch.empty(found.nbytes, dtype=torch.uint8)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(found.offset)
                got = file.readinto(made.numpy().data) if found.nbytes else 0
        except OSError as error:
            raise ModelError(f"{self.path}: tensor {name} cannot be read ({error}); copy the file again") from None
        if got != found.nbytes:
            raise ModelError(f"{self.path}: tensor {name} is cut short; copy the file again")
        return made.view(prod(found.shape[:-1]), -1)


class _Header:
    """A walk through the header; `at` is the byte to read next."""

    def __init__(self, path: Path, data: mmap.mmap, words: bool) -> None:
        self.path, self.data, self.words, self.at = path, data, words, 0

    def refuse(self, problem: str) -> NoReturn:
        raise ModelError(f"{self.path}: {problem}")

    def read(self) -> GgufFile:
        if self.data[:4] != MAGIC:
            self.refuse("is not a GGUF file; give a .gguf file, or the folder of a model")
        self.at = 4
        version = self.number(4)
        if int.from_bytes(self.data[4:8], "big") in (2, 3):
            self.refuse("is a big-endian GGUF file; little-endian ones are supported: convert the original model again")
        if version not in (2, 3):
            self.refuse(f"is GGUF version {version}; versions 2 and 3 are supported: convert the original model "
                        "again")
        tensors, keys = self.count(24), self.count(12)
        metadata: dict[str, Value] = {}
        for _ in range(keys):
            name = self.string()
            if name in metadata:
                self.refuse(f"has the key {name} twice; copy the file again")
            if (value := self.value(self.number(4))) is not None:
                metadata[name] = value
        if metadata.get("split.count", 1) not in (0, 1):
            self.refuse(f"is one of {metadata['split.count']} parts; merge them into one file first "
                        "(gguf-split --merge)")
        found = self.tensors(tensors, metadata.get("general.alignment", _ALIGNMENT))
        return GgufFile(self.path, metadata, found, sha256(memoryview(self.data)[:self.at]).hexdigest())

    def tensors(self, count: int, alignment: Value) -> dict[str, GgufTensor]:
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            self.refuse(f"general.alignment must be a power of two, is {alignment!r}")
        infos: dict[str, tuple[tuple[int, ...], Block, int]] = {}
        for _ in range(count):
            name = self.string()
            if name in infos:
                self.refuse(f"has the tensor {name} twice; copy the file again")
            infos[name] = self.info(name)
        begin = -(-self.at // alignment) * alignment
        found = {}
        for name, (shape, block, offset) in infos.items():
            nbytes = prod(shape) // block.weights * block.nbytes
            if offset % alignment:
                self.refuse(f"tensor {name} begins at byte {offset} of the tensors, which is no multiple of the "
                            f"alignment, {alignment}; copy the file again")
            if begin + offset + nbytes > len(self.data):
                self.refuse(f"tensor {name} would end at byte {begin + offset + nbytes} of a file of "
                            f"{len(self.data)}; the file is cut short, copy it again")
            found[name] = GgufTensor(shape, block, begin + offset, nbytes)
        self.check_apart(found)
        return found

    def check_apart(self, tensors: Mapping[str, GgufTensor]) -> None:
        """No byte belongs to two tensors: the numbers of one would be those of the other."""
        in_order = sorted(tensors.items(), key=lambda item: item[1].offset)
        for (name, tensor), (other, after) in pairwise(in_order):
            if tensor.offset + tensor.nbytes > after.offset:
                self.refuse(f"tensors {name} and {other} lie over each other, at byte {after.offset}; copy the file "
                            "again")

    def info(self, name: str) -> tuple[tuple[int, ...], Block, int]:
        dims = self.number(4)
        if not 1 <= dims <= _MAX_DIMS:
            self.refuse(f"tensor {name} has {dims} dimensions; 1 to {_MAX_DIMS} are possible, copy the file again")
        shape = tuple(reversed([self.number(8) for _ in range(dims)]))
        if 0 in shape:
            self.refuse(f"tensor {name} is {list(shape)}, which is nothing; copy the file again")
        kind, offset = self.number(4), self.number(8)
        if kind not in BLOCKS:
            known = ", ".join(block.name for block in BLOCKS.values())
            self.refuse(f"tensor {name} is {OTHER_TYPES.get(kind, f'of type {kind}')}, which is not supported; "
                        f"supported: {known}. Quantise the original model to one of these")
        if shape[-1] % BLOCKS[kind].weights:
            self.refuse(f"tensor {name} is {list(shape)}, which is no whole number of {BLOCKS[kind].name} blocks; "
                        "copy the file again")
        return shape, BLOCKS[kind], offset

    def value(self, kind: int) -> Value | None:
        """None for a list that is left out."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            self.refuse(f"has a value of unknown type {kind}; the file is damaged, copy it again")
        number = np.frombuffer(self.take(np.dtype(_SCALARS[kind]).itemsize), _SCALARS[kind])[0]
        if kind == _FLOAT32:
            return float(str(number))       # 1e-6 as it was meant, not as it was rounded
        return bool(number) if kind == _BOOL else number.item()

    def array(self) -> Value | None:
        kind = self.number(4)
        if kind == _STRING:
            return self.strings(self.count(8))
        if kind not in _SCALARS:
            self.refuse(f"has an array of type {kind}, which is not supported; the file may be damaged, copy it again")
        dtype = np.dtype(_SCALARS[kind])
        values = np.frombuffer(self.take(self.count(dtype.itemsize) * dtype.itemsize), dtype)
        found: list[int] = (values.astype(bool) if kind == _BOOL else values).tolist()
        return found

    def strings(self, count: int) -> list[str] | None:
        """As many times `string`, without its calls: there are hundreds of thousands."""
        found, data, size = list[str](), self.data, len(self.data)
        for _ in range(count):
            begin = self.at + _LENGTH.size
            end = begin + _LENGTH.unpack_from(data, self.at)[0] if begin <= size else size + 1
            if end > size:
                self.string()       # which says what is wrong
            if self.words:
                try:
                    found.append(str(data[begin:end], "utf-8"))
                except UnicodeDecodeError:
                    self.string()
            self.at = end
        return found if self.words else None

    def string(self) -> str:
        length = self.number(8)
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            self.refuse(f"has a string at byte {self.at - length} that is not UTF-8; copy the file again")

    def count(self, least: int) -> int:
        """A number of things that take at least so many bytes each."""
        count = self.number(8)
        if count > MAX_ITEMS or count * least > len(self.data) - self.at:
            self.refuse(f"states {count} items at byte {self.at - 8}, more than the file can hold; copy it again")
        return count

    def number(self, size: int) -> int:
        """Of so many bytes, without a sign."""
        return int.from_bytes(self.take(size), "little")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            self.refuse(f"ends in its header, at byte {len(self.data)}; the file is cut short, copy it again")
        self.at += size
        return self.data[self.at - size:self.at]
