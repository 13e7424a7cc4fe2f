"""The gated feed-forward layer (SwiGLU). Gate and up projections are one matrix."""

from dataclasses import dataclass

from torch import Tensor

from nearfield.kernels.ops import OpTable
from nearfield.layers.linear import Linear


@dataclass(frozen=True)
class MLP:
    """down(silu(gate(x)) * up(x)); gate_up is [2F, D], gate first."""

    ops: OpTable
    gate_up: Linear
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] to [T, D]."""
        return self.down(self.ops.silu_mul(self.gate_up(x)))
