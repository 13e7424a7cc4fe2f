"""Self-attention with grouped key/value heads over a paged cache, and the inputs of a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.cache.store import KVStore
from nearfield.kernels.ops import AttnPlan, OpTable
from nearfield.layers.linear import Linear
from nearfield.layers.norm import RMSNorm


@dataclass(frozen=True)
class StepInputs:
    """A step as a model takes it: tokens and positions [T] int64, rows end to end.

    `kv` is None when there is no cache, as in training (see AttnPlan).
    """

    tokens: Tensor
    positions: Tensor
    attn: AttnPlan
    kv: KVStore | None


@dataclass(frozen=True)
class Attention:
    """Q, K and V of one matrix ([(H + 2G) d, D], in that order), rotation, attention, output.

    `q_norm` and `k_norm` normalise each head before the rotation, where the family has them.
    `window`: positions that a token sees, itself included; None sees all.
    """

    ops: OpTable
    layer: int
    kv_heads: int
    head_dim: int
    qkv: Linear
    out: Linear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    window: int | None

    def __call__(self, x: Tensor, step: StepInputs, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [T, D] to [T, D]; writes the step's K and V into the cache."""
        heads = self.qkv(x).view(len(x), -1, self.head_dim)
        turned, v = heads[:, :-self.kv_heads], heads[:, -self.kv_heads:]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = turned[:, :-self.kv_heads], turned[:, -self.kv_heads:]
            turned = torch.cat((self.q_norm(q), self.k_norm(k)), dim=1)
        turned = self.ops.rope(turned, *rotation)
        q, k = turned[:, :-self.kv_heads], turned[:, -self.kv_heads:]
        return self.out(self._attend(q, k, v, step).flatten(1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, step: StepInputs) -> Tensor:
        if step.kv is None or step.attn.slots is None:
            return self.ops.attend_dense(q, k, v, step.attn, self.window)
        cache = step.kv.layer(self.layer)
        self.ops.store_kv(cache, k, v, step.attn.slots)
        return self.ops.attend(q, cache, step.attn, self.window)
