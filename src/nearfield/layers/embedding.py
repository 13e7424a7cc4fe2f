"""Token embeddings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.kernels.ops import OpTable, PackedWeight


@dataclass(frozen=True)
class Embedding:
    """Rows of a table [V, D], in `dtype`."""

    ops: OpTable
    weight: PackedWeight
    dtype: torch.dtype

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens [T] int64 to [T, D]."""
        return self.ops.embed(tokens, self.weight, self.dtype)
