"""Self-attention with grouped key/value heads over a paged cache, and the inputs of a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.cache.store import KVStore
from nearfield.kernels.ops import AttnPlan, AttnRow, Heads, Norm, OpTable
from nearfield.layers.linear import Linear


@dataclass(frozen=True)
class StepInputs:
    """A step as a model takes it: tokens and positions [T] int64, rows end to end.

    `kv` is None when there is no cache, as in training (see AttnPlan).
    """

    tokens: Tensor
    positions: Tensor
    attn: AttnPlan
    kv: KVStore | None


def dense_inputs(tokens: Tensor) -> StepInputs:
    """Rows [B, T] of tokens that start at position 0 and use no cache, as training does; on their device."""
    count, length = tokens.shape
    rows = tuple(AttnRow(i * length, length, 0, ()) for i in range(count))
    return StepInputs(tokens.flatten(), torch.arange(length, device=tokens.device).repeat(count), AttnPlan(rows), None)


@dataclass(frozen=True)
class Attention:
    """x + out(attention(qkv(norm(x)))). Q, K and V are of one matrix ([(H + 2G) d, D], in that order)."""

    ops: OpTable
    layer: int
    heads: Heads
    norm: Norm
    qkv: Linear
    out: Linear

    def __call__(self, x: Tensor, step: StepInputs, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [T, D] to [T, D]; writes the step's K and V into the cache."""
        cache = None if step.kv is None else step.kv.layer(self.layer)
        qkv = self.qkv(x, norm=self.norm)
        return self.out(self.ops.attention(qkv, self.heads, rotation, cache, step.attn), residual=x)
