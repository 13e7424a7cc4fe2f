"""Weights that a folder stores as codes on their way into a model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.codecs import decode, floats, layout
from nearfield.formats.compressed import Stored, join
from nearfield.formats.manifest import Manifest, Scheme
from nearfield.kernels.ops import OpTable, PackedWeight
from nearfield.models.decoder import ModelWeights
from nearfield.models.inventory import EMBED, take_inventory
from nearfield.models.spec import ModelSpec


class StoredSource(Protocol):
    """Where tensors come from as they are stored."""

    def get_exact(self, name: str, shape: tuple[int, ...], dtypes: Collection[torch.dtype]) -> Tensor:
        """The tensor called `name`, of this shape and one of these dtypes."""
        ...

    def place(self, name: str) -> str:
        """The file of a tensor, and what the tensor is called there, for messages."""
        ...


@dataclass(frozen=True)
class CompressedWeights:
    """ModelWeights from a folder that stores the matrices as `manifest` says, and the rest as `dense` reads it."""

    source: StoredSource
    ops: OpTable
    manifest: Manifest
    dense: ModelWeights

    def vector(self, name: str, size: int) -> Tensor:
        """A norm or a bias, which is never quantised."""
        return self.dense.vector(name, size)

    def matrix(self, parts: Mapping[str, int], columns: int, *, table: bool = False) -> PackedWeight:
        """The parts one below the other, prepared; raises ModelError where they are not stored alike."""
        schemes = schemes_of(self.manifest, parts)
        if not schemes:
            return self.dense.matrix(parts, columns, table=table)
        if EMBED in parts and (schemes[EMBED].format != "int8" or schemes[EMBED].group):
            raise ModelError(f"{self.manifest.place}: {_layer(EMBED)} is stored as {schemes[EMBED]}, which is not "
                             "supported of embeddings; store them as int8 with a scale a row, or leave them dense: "
                             "they become int8 at load")
        read = [self._read(name, (rows, columns), schemes[name]) for name, rows in parts.items()]
        return self.ops.prepare(join(read))

    def floats(self, name: str, shape: tuple[int, int]) -> Tensor | None:
        """The matrix `name` that codes stand for, fp32, exactly; None where it is stored dense."""
        scheme = schemes_of(self.manifest, [name]).get(name)
        return None if scheme is None else floats(self._place(name, scheme, shape), scheme, shape,
                                               self._stored(name, shape, scheme))

    def _read(self, name: str, shape: tuple[int, int], scheme: Scheme) -> PackedWeight:
        return decode(self._place(name, scheme, shape), scheme, shape, self._stored(name, shape, scheme),
                      self.ops.round_to_nearest)

    def _place(self, name: str, scheme: Scheme, shape: tuple[int, int]) -> str:
        """The layer, as errors name it: with the file that it lies in."""
        end = next(iter(self._layout(name, scheme, shape)))
        return self.source.place(f"{_layer(name)}.{end}").removesuffix(f".{end}")

    def _stored(self, name: str, shape: tuple[int, int], scheme: Scheme) -> dict[str, Tensor]:
        layer = _layer(name)
        return {end: self.source.get_exact(f"{layer}.{end}", stored.shape, stored.dtypes)
                for end, stored in self._layout(name, scheme, shape).items()}

    def _layout(self, name: str, scheme: Scheme, shape: tuple[int, int]) -> dict[str, Stored]:
        return layout(f"{self.manifest.place}: {_layer(name)}", scheme, *shape)


def stored_formats(manifest: Manifest, spec: ModelSpec) -> tuple[str, ...]:
    """The formats that the layers' matrices, and a table that is stored as codes, become, each once."""
    found = take_inventory(spec)
    inner = [_format(manifest, parts) or "dense" for parts in found.linears]
    tables = [_format(manifest, [name]) for name in found.tables]
    return tuple(dict.fromkeys([*inner, *filter(None, tables)]))


def schemes_of(manifest: Manifest, parts: Collection[str]) -> dict[str, Scheme]:
    """The schemes of matrices that go together; empty where they are dense. Raises ModelError for some of each."""
    schemes = {name: manifest.scheme(_layer(name), _class(name)) for name in parts}
    coded = {name: scheme for name, scheme in schemes.items() if scheme is not None}
    if coded and len(coded) < len(schemes):
        first = next(iter(schemes))
        other = next(name for name in schemes if (name in coded) != (first in coded))
        raise ModelError(f"{manifest.place}: {_layer(first)} is stored as {schemes[first] or 'dense'} and "
                         f"{_layer(other)} as {schemes[other] or 'dense'}, but they are multiplied by as one "
                         "matrix; quantise both alike, or make both dense: nearfield unpack")
    return coded


def _format(manifest: Manifest, parts: Collection[str]) -> str | None:
    """What `join` makes of the parts; None where they are dense."""
    formats = {scheme.format for scheme in schemes_of(manifest, parts).values()}
    return None if not formats else (formats.pop() if len(formats) == 1 else "int8")


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _class(name: str) -> str:
    return "Embedding" if name == EMBED else "Linear"
