"""Weights that a folder stores as codes (compressed-tensors) on their way into a model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.compressed import decode, join, layout
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
        scheme = common_scheme(self.manifest, parts)
        if scheme is None:
            return self.dense.matrix(parts, columns, table=table)
        if EMBED in parts and (scheme.bits != 8 or scheme.group):
            raise ModelError(f"{_layer(EMBED)} is stored as {scheme}, which is not supported of embeddings; store them "
                             "as int8 with a scale a row, or leave them dense: they become int8 at load")
        return self.ops.prepare(join([self._read(name, (rows, columns), scheme) for name, rows in parts.items()]))

    def _read(self, name: str, shape: tuple[int, int], scheme: Scheme) -> PackedWeight:
        layer = _layer(name)
        tensors = {end: self.source.get_exact(f"{layer}.{end}", stored.shape, stored.dtypes)
                   for end, stored in layout(layer, scheme, *shape).items()}
        return decode(layer, scheme, shape, tensors)


def stored_formats(manifest: Manifest, spec: ModelSpec) -> tuple[str, ...]:
    """The formats that the layers' matrices, and a table that is stored as codes, are stored in, each once."""
    found = take_inventory(spec)
    inner = [common_scheme(manifest, parts) for parts in found.linears]
    tables = [common_scheme(manifest, [name]) for name in found.tables]
    names = ["dense" if scheme is None else scheme.format for scheme in inner]
    return tuple(dict.fromkeys(names + [scheme.format for scheme in tables if scheme is not None]))


def common_scheme(manifest: Manifest, parts: Collection[str]) -> Scheme | None:
    """The scheme of matrices that go together; None where they are dense. Raises ModelError where they differ."""
    schemes = {name: manifest.scheme(_layer(name), _class(name)) for name in parts}
    first, *others = schemes.items()
    for name, scheme in others:
        if scheme != first[1]:
            raise ModelError(f"{_layer(first[0])} is stored as {first[1] or 'dense'} and {_layer(name)} as "
                             f"{scheme or 'dense'}, but they are multiplied by as one matrix; quantise both alike")
    return first[1]


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _class(name: str) -> str:
    return "Embedding" if name == EMBED else "Linear"
