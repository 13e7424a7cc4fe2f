"""What a weight format is: how a dense matrix is packed for the kernels and told apart on disk."""

from typing import Protocol

from torch import Tensor

from nearfield.kernels.ops import PackedWeight, Rounding
from nearfield.kernels.reference import round_to_nearest


class WeightFormat(Protocol):
    """One file a format. `name` is what PackedWeight.format holds."""

    name: str

    def pack(self, dense: Tensor, round: Rounding = round_to_nearest) -> PackedWeight:
        """Store a dense [out, in] matrix. `round` makes codes, where the format has codes."""
        ...

    def unpack(self, weight: PackedWeight) -> Tensor:
        """The dense [out, in] matrix again, as exactly as the format allows."""
        ...

    def bits_per_weight(self, weight: PackedWeight) -> float:
        """Stored bits, scales and all, for each weight."""
        ...
