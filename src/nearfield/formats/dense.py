"""The dense format: the matrix itself in bf16, fp16 or fp32."""

from torch import Tensor

from nearfield.kernels.ops import PackedWeight, Rounding
from nearfield.kernels.reference import round_to_nearest


class Dense:
    """The null format: nothing is packed."""

    name = "dense"

    def pack(self, dense: Tensor, round: Rounding = round_to_nearest) -> PackedWeight:
        """Hold `dense` [out, in] as it is; nothing is rounded."""
        rows, columns = dense.shape
        return PackedWeight(self.name, (rows, columns), {"weight": dense})

    def unpack(self, weight: PackedWeight) -> Tensor:
        """The matrix that `pack` was given."""
        return weight.tensors["weight"]

    def bits_per_weight(self, weight: PackedWeight) -> float:
        """Bits of the dtype."""
        return 8.0 * weight.nbytes / (weight.shape[0] * weight.shape[1])
