"""A linear layer: a packed weight, an optional bias, and the operation that multiplies by them."""

from dataclasses import dataclass

from torch import Tensor

from nearfield.kernels.ops import Norm, OpTable, PackedWeight


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b, whatever the weight's format is: the operation table knows."""

    ops: OpTable
    weight: PackedWeight
    bias: Tensor | None = None

    def __call__(self, x: Tensor, *, norm: Norm | None = None, gated: bool = False,
                 residual: Tensor | None = None) -> Tensor:
        """x [T, in] to [T, out]; `norm` or the gate before it and `residual` after it, as in `OpTable.linear`."""
        return self.ops.linear(x, self.weight, self.bias, norm=norm, gated=gated, residual=residual)
