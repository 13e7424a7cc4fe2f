"""The gated feed-forward layer (SwiGLU, Shazeer 2020). Gate and up projections are one matrix."""

from dataclasses import dataclass

from torch import Tensor

from nearfield.kernels.ops import Norm
from nearfield.layers.linear import Linear


@dataclass(frozen=True)
class MLP:
    """x + down(silu(gate(norm(x))) * up(norm(x))); gate_up is [2F, D], gate first."""

    norm: Norm
    gate_up: Linear
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, D] to [T, D]."""
        return self.down(self.gate_up(x, norm=self.norm), gated=True, residual=x)
