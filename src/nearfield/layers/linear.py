"""A linear layer: a packed weight, an optional bias, and the operation that multiplies by them."""

from dataclasses import dataclass

from torch import Tensor

from nearfield.kernels.ops import OpTable, PackedWeight


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b, whatever the weight's format is: the operation table knows."""

    ops: OpTable
    weight: PackedWeight
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, in] to [T, out]."""
        return self.ops.linear(x, self.weight, self.bias)
