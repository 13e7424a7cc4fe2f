"""Token embeddings."""

from dataclasses import dataclass

from torch import Tensor

from nearfield.kernels.ops import OpTable, PackedWeight


@dataclass(frozen=True)
class Embedding:
    """Rows of a table [V, D]."""

    ops: OpTable
    weight: PackedWeight

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens [T] int64 to [T, D]."""
        return self.ops.embed(tokens, self.weight, self.ops.activations)
