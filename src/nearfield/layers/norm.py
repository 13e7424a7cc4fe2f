"""Root-mean-square normalisation."""

from dataclasses import dataclass

from torch import Tensor

from nearfield.kernels.ops import OpTable


@dataclass(frozen=True)
class RMSNorm:
    """Over the last dimension, with a learnt weight [D] (or [d], for the norms of Q and K heads)."""

    ops: OpTable
    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., D] to the same shape."""
        return self.ops.rms_norm(x, self.weight, self.eps)
