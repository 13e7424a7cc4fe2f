"""What a teacher says of chunks of text, on disk: far more than memory holds, read back a few chunks at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nearfield.compress.kept import Kept

PART = 32
"""Chunks of a file."""


class Chunks:
    """Tensors of `count` chunks under `name`, in files of PART chunks each; what is read of them goes to `device`."""

    def __init__(self, kept: Kept, name: str, count: int, device: torch.device) -> None:
        self.count, self._device = count, device
        self._kept, self._name = kept, name
        self._open: dict[int, Any] = {}             # safetensors has no types

    def parts(self) -> Iterator[tuple[int, range]]:
        """Every part's number and its chunks."""
        for first in range(0, self.count, PART):
            yield first // PART, range(first, min(first + PART, self.count))

    def __contains__(self, part: int) -> bool:
        return self._called(part) in self._kept

    def put(self, part: int, tensors: Mapping[str, Tensor], seconds: float = 0.0) -> None:
        """Keep the tensors [chunks of the part, ...] of a part, which took so long to make."""
        self._kept.put(self._called(part), tensors, seconds)

    def seconds(self) -> float:
        """What all of them took."""
        return sum(float(self._kept.facts(self._called(part))) for part, _ in self.parts())

    def rows(self, key: str, chunks: Sequence[int]) -> Tensor:
        """The tensors called `key` of these chunks, [len(chunks), ...]."""
        found = [self._part(chunk // PART).get_slice(key)[chunk % PART] for chunk in chunks]
        return torch.stack(found).to(self._device)

    def drop(self) -> None:
        """Keep none of them longer."""
        self._open.clear()
        for part, _ in self.parts():
            self._kept.drop(self._called(part))

    def _part(self, part: int) -> Any:
        if part not in self._open:
            self._open[part] = safe_open(self._kept.path(self._called(part)), framework="pt")
        return self._open[part]

    def _called(self, part: int) -> str:
        return f"{self._name}-{part:05d}"
