"""Dense weights on their way into a model: by name from a source, packed in a format, laid out for the kernels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfield.core.errors import ModelError
from nearfield.formats.base import WeightFormat
from nearfield.formats.dense import Dense
from nearfield.kernels.ops import OpTable, PackedWeight


@dataclass(frozen=True)
class Formats:
    """How a model's matrices are stored: those of the layers, and the table of embeddings and the head.

    name: what a user calls it, such as "w4 group 64"; formats that make other codes have other names.
    """

    inner: WeightFormat
    table: WeightFormat
    name: str


DENSE = Formats(Dense(), Dense(), "dense")


class WeightSource(Protocol):
    """Where dense weights come from: a checkpoint, random numbers, or a training loop's own tensors."""

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor called `name`, of this shape, in the model's dtype."""
        ...

    def place(self, name: str) -> str:
        """Where the tensor is, and its name there, for messages."""
        ...


class CastWeights:
    """A WeightSource over a training loop's own tensors, cast to the dtype that computes: gradients flow through the
    casts, so that what is trained is what will be served."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self._tensors, self._dtype = tensors, dtype

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._tensors[name].to(self._dtype)

    def place(self, name: str) -> str:
        return name


@dataclass(frozen=True)
class DenseWeights:
    """ModelWeights from dense tensors, each matrix packed in its format as it is asked for."""

    source: WeightSource
    ops: OpTable
    formats: Formats = DENSE

    def vector(self, name: str, size: int) -> Tensor:
        """A norm or a bias [size], in the dtype of activations."""
        return self.source.get(name, (size,)).to(self.ops.activations)

    def matrix(self, parts: Mapping[str, int], columns: int, *, table: bool = False) -> PackedWeight:
        """The parts one below the other, packed and prepared. Raises ModelError for numbers that cannot be packed."""
        dense = [self.source.get(name, (rows, columns)) for name, rows in parts.items()]
        fmt = self.formats.table if table else self.formats.inner
        whole = dense[0] if len(dense) == 1 else torch.cat(dense)
        try:
            return self.ops.prepare(fmt.pack(whole, self.ops.round_to_nearest))
        except ModelError as error:
            wrong = next((name for name, part in zip(parts, dense, strict=True) if not part.isfinite().all()), None)
            raise ModelError(f"{self.source.place(wrong or next(iter(parts)))}: {error}") from None
