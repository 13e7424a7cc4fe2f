"""The decoder-only transformer that all families here are: pre-norm layers of attention and MLP.

Weights come from a WeightSource by their Hugging Face names; Q, K and V become one matrix, and so
do gate and up, so that a layer is four matrix products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfield.formats.base import WeightFormat
from nearfield.kernels.ops import OpTable
from nearfield.layers.attention import Attention, StepInputs
from nearfield.layers.embedding import Embedding
from nearfield.layers.linear import Linear
from nearfield.layers.mlp import MLP
from nearfield.layers.norm import RMSNorm
from nearfield.layers.rotary import Rotary
from nearfield.models.spec import ModelSpec


@dataclass(frozen=True)
class Formats:
    """How a model's matrices are stored: those of the layers, and the table of embeddings and the head."""

    inner: WeightFormat
    table: WeightFormat


class WeightSource(Protocol):
    """Where weights come from: a checkpoint, random numbers, or a training loop's own tensors."""

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor called `name`, of this shape, in the model's dtype."""
        ...


@dataclass(frozen=True)
class DecoderLayer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    attn_norm: RMSNorm
    attn: Attention
    mlp_norm: RMSNorm
    mlp: MLP

    def __call__(self, x: Tensor, step: StepInputs, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [T, D] to [T, D]."""
        x = x + self.attn(self.attn_norm(x), step, rotation)
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True)
class Decoder:
    """A whole model. `hidden` and `logits` are apart, so that only the rows that need logits get them."""

    spec: ModelSpec
    embed: Embedding
    layers: Sequence[DecoderLayer]
    norm: RMSNorm
    head: Linear
    rotary: Rotary

    def hidden(self, step: StepInputs) -> Tensor:
        """The final-norm hidden state of every token of the step: [T, D]."""
        rotation = self.rotary.at(step.positions)
        x = self.embed(step.tokens)
        for layer in self.layers:
            x = layer(x, step, rotation)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [R, D] to logits [R, V], fp32."""
        return self.head(hidden).float()

    def linears(self) -> list[Linear]:
        """Every matrix that a token is multiplied by, in order, the head last."""
        inner = [m for layer in self.layers
                 for m in (layer.attn.qkv, layer.attn.out, layer.mlp.gate_up, layer.mlp.down)]
        return [*inner, self.head]


def build_decoder(spec: ModelSpec, source: WeightSource, ops: OpTable, formats: Formats, positions: int,
                  progress: Callable[[int, int], None] = lambda done, total: None) -> Decoder:
    """Assemble a model from `source`, for sequences of up to `positions` tokens.

    `progress(done, total)` is called after each layer.
    """
    builder = _Builder(spec, source, ops, formats.inner)
    table = source.get("model.embed_tokens.weight", (spec.vocab_size, spec.hidden_size))
    packed = formats.table.pack(table)
    layers = []
    for i in range(spec.num_layers):
        layers.append(builder.layer(i))
        progress(i + 1, spec.num_layers)
    head = packed if spec.tie_embeddings else formats.table.pack(
        source.get("lm_head.weight", (spec.vocab_size, spec.hidden_size)))
    return Decoder(spec, Embedding(ops, packed, table.dtype), layers, builder.norm("model.norm", spec.hidden_size),
                   Linear(ops, ops.prepare(head)), Rotary(spec.rope, spec.head_dim, positions))


@dataclass(frozen=True)
class _Builder:
    spec: ModelSpec
    source: WeightSource
    ops: OpTable
    fmt: WeightFormat

    def layer(self, index: int) -> DecoderLayer:
        spec, prefix = self.spec, f"model.layers.{index}"
        attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        q, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        hidden, inner = spec.hidden_size, spec.intermediate_size
        attention = Attention(
            self.ops, index, spec.num_kv_heads, spec.head_dim,
            qkv=self.linear(attn, {"q_proj": q, "k_proj": kv, "v_proj": kv}, hidden, spec.qkv_bias),
            out=self.linear(attn, {"o_proj": hidden}, q, spec.out_bias),
            q_norm=self.norm(f"{attn}.q_norm", spec.head_dim) if spec.qk_norm else None,
            k_norm=self.norm(f"{attn}.k_norm", spec.head_dim) if spec.qk_norm else None,
            window=spec.windows[index])
        feed = MLP(self.ops,
                   self.linear(mlp, {"gate_proj": inner, "up_proj": inner}, hidden, spec.mlp_bias),
                   self.linear(mlp, {"down_proj": hidden}, inner, spec.mlp_bias))
        return DecoderLayer(self.norm(f"{prefix}.input_layernorm", hidden), attention,
                            self.norm(f"{prefix}.post_attention_layernorm", hidden), feed)

    def linear(self, prefix: str, parts: dict[str, int], columns: int, bias: bool) -> Linear:
        weight = torch.cat([self.source.get(f"{prefix}.{name}.weight", (rows, columns))
                            for name, rows in parts.items()])
        offset = torch.cat([self.source.get(f"{prefix}.{name}.bias", (rows,))
                            for name, rows in parts.items()]) if bias else None
        return Linear(self.ops, self.ops.prepare(self.fmt.pack(weight)), offset)

    def norm(self, name: str, size: int) -> RMSNorm:
        return RMSNorm(self.ops, self.source.get(f"{name}.weight", (size,)), self.spec.norm_eps)
