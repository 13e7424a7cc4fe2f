"""Weights as the kernels read them, kept in a file, so that the next start neither quantises nor packs.

A pack holds all that a ModelWeights gave a decoder. It is found by its key, a hash of everything that decides
its bytes: the checkpoint's files, the formats, the layout of the backend, and the code that makes codes. A pack
that is damaged, or another's, is reported and made anew; one that cannot be written is reported and done without.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.core.config import format_bytes
from nearfield.kernels.ops import OpTable, PackedWeight, Prepared
from nearfield.models.decoder import ModelWeights
from nearfield.models.file_hashes import FileHashes
from nearfield.models.pack_file import SUFFIX, Blob, DamagedPackError, PackReader, PackWriter
from nearfield.models.pack_folder import packs_folder, sweep

_log = logging.getLogger("nearfield")

_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8)}
_MAKERS = ("nearfield.formats", "nearfield.kernels.reference", "nearfield.models")
"""The packages whose code decides which codes a checkpoint gets and in which matrices they come."""


class NoPacks:
    """The null twin of PackCache: nothing is there, nothing is kept."""

    def read(self) -> ModelWeights | None:
        return None

    @contextmanager
    def write(self, inner: ModelWeights) -> Iterator[ModelWeights]:
        yield inner


def open_packs(checkpoint: Sequence[Path], formats: Mapping[str, str], ops: OpTable) -> "PackCache | NoPacks":
    """The pack of the files `checkpoint`, packed in `formats` (whatever tells two of them apart) for `ops`.

    Where there is no place for packs, or the files cannot be read, a warning says so and there are none.
    """
    try:
        folder = packs_folder()
        folder.mkdir(parents=True, exist_ok=True)
        hashes = FileHashes(folder / "files.json")
        contents = list(zip([file.name for file in checkpoint], hashes.of(checkpoint, ops.threads), strict=True))
    except OSError as error:
        _log.warning("packed weights are not kept for the next start: %s; name a folder for them in NEARFIELD_CACHE, "
                     "or give --no-pack-cache", error)
        return NoPacks()
    key = {**formats, "checkpoint": _digest(contents), "activations": str(ops.activations),
           "profile": str(ops.profile), "layout": ops.layout, "code": _code()}
    return PackCache(folder / (_digest(key)[:32] + SUFFIX), key, ops, lambda: hashes.unchanged(checkpoint))


@dataclass(frozen=True)
class PackCache:
    """The pack of `key` in `file`. `unchanged`: whether the checkpoint still is what the key was made of."""

    file: Path
    key: Mapping[str, str]
    ops: OpTable
    unchanged: Callable[[], bool] = lambda: True

    def read(self) -> ModelWeights | None:
        """All weights, every hash checked; None where there is no pack, or none that can be used."""
        begin = time.monotonic()
        try:
            with closing(PackReader(self.file)) as reader:
                weights = _restore(reader, self.key, self.ops)
        except FileNotFoundError:
            return None
        except (DamagedPackError, OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is not used: %s; the weights are packed again", self.file, error)
            return None
        _log.info("read packed weights from %s in %.2f s", self.file, time.monotonic() - begin)
        try:
            os.utime(self.file)   # the packs used longest ago go first
        except OSError:
            pass                  # a folder that can only be read
        return weights

    @contextmanager
    def write(self, inner: ModelWeights) -> Iterator[ModelWeights]:
        """`inner`, whose weights are written as they pass; the pack is whole when the block ends without an error."""
        try:
            writer = PackWriter(self.file)
        except OSError as error:
            self._report(error)
            yield inner
            return
        try:
            passing = _Passing(inner, writer)
            yield passing
            self._finish(passing, writer)
        finally:
            writer.discard()

    def _finish(self, passing: "_Passing", writer: PackWriter) -> None:
        if passing.error is not None:
            return self._report(passing.error)
        try:
            if not self.unchanged():
                return _log.warning("packed weights are not kept: the checkpoint changed while it was read; "
                                    "start again to use it as it is now")
            size = writer.commit({"key": dict(self.key), "vectors": passing.vectors, "matrices": passing.matrices})
            _log.info("wrote packed weights to %s, %s", self.file, format_bytes(size))
            sweep(self.file.parent)
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        _log.warning("packed weights are not kept in %s: %s; the next start packs them again", self.file.parent, error)


class _Passing:
    """ModelWeights that writes what `inner` gives, until the first `error`."""

    def __init__(self, inner: ModelWeights, writer: PackWriter) -> None:
        self._inner, self._writer = inner, writer
        self.vectors: dict[str, Any] = {}
        self.matrices: dict[str, Any] = {}
        self.error: OSError | None = None

    def vector(self, name: str, size: int) -> Tensor:
        """As ModelWeights.vector."""
        tensor = self._inner.vector(name, size)
        self._keep(lambda: self.vectors.update({name: self._tensor(tensor)}))
        return tensor

    def matrix(self, parts: Mapping[str, int], columns: int, *, table: bool = False) -> PackedWeight:
        """As ModelWeights.matrix."""
        weight = self._inner.matrix(parts, columns, table=table)
        self._keep(lambda: self.matrices.update({_name(parts): self._matrix(weight)}))
        return weight

    def _keep(self, write: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            write()
        except OSError as error:
            self.error = error
            self._writer.discard()   # on a full disk others need the room

    def _matrix(self, weight: PackedWeight) -> dict[str, Any]:
        made = weight.prepared
        return {"format": weight.format, "shape": weight.shape,
                "tensors": {name: self._tensor(tensor) for name, tensor in weight.tensors.items()},
                "prepared": None if made is None else {"layout": list(made.layout), **self._blob(memoryview(made))}}

    def _tensor(self, tensor: Tensor) -> dict[str, Any]:
        return {"dtype": str(tensor.dtype), "shape": list(tensor.shape), **self._blob(_bytes(tensor.contiguous()))}

    def _blob(self, data: memoryview) -> dict[str, Any]:
        return asdict(self._writer.add(data))


@dataclass(frozen=True)
class _Restored:
    """ModelWeights out of a pack."""

    vectors: Mapping[str, Tensor]
    matrices: Mapping[str, PackedWeight]

    def vector(self, name: str, size: int) -> Tensor:
        """As ModelWeights.vector."""
        return self.vectors[name]

    def matrix(self, parts: Mapping[str, int], columns: int, *, table: bool = False) -> PackedWeight:
        """As ModelWeights.matrix."""
        return self.matrices[_name(parts)]


def _restore(reader: PackReader, key: Mapping[str, str], ops: OpTable) -> _Restored:
    """Make room for everything, then fill it on as many threads as the kernels have."""
    if reader.index["key"] != dict(key):
        raise DamagedPackError("it belongs to another checkpoint or another form of this one")
    reads: list[tuple[Blob, memoryview]] = []

    def tensor(entry: Mapping[str, Any]) -> Tensor:
        made = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
        reads.append((_blob(entry), _bytes(made)))
        return made

    def prepared(entry: Mapping[str, Any] | None) -> Prepared | None:
        if entry is None:
            return None
        made = ops.blank(entry["layout"])
        reads.append((_blob(entry), memoryview(made)))
        return made

    weights = _Restored(
        {name: tensor(entry) for name, entry in reader.index["vectors"].items()},
        {name: PackedWeight(entry["format"], tuple(entry["shape"]),
                            {part: tensor(found) for part, found in entry["tensors"].items()},
                            prepared(entry["prepared"]))
         for name, entry in reader.index["matrices"].items()})
    reads.sort(key=lambda read: -read[0].length)   # the longest first, or one thread would end on it alone
    with ThreadPoolExecutor(ops.threads) as pool:
        for _ in pool.map(lambda read: reader.read(*read), reads):
            pass
    return weights


def _blob(entry: Mapping[str, Any]) -> Blob:
    return Blob(entry["offset"], entry["length"], entry["sha256"])


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, flat."""
    return tensor.flatten().view(torch.uint8).numpy().data


def _name(parts: Mapping[str, int]) -> str:
    return " ".join(parts)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _code() -> str:
    """The code that makes codes: a better rounding must not hide behind the packs of the former one."""
    sources = [(file.name, file.read_bytes()) for package in _MAKERS for file in files(package).iterdir()
               if file.name.endswith(".py")]
    return _digest([[name, hashlib.sha256(text).hexdigest()] for name, text in sorted(sources)])
