"""The decoder-only transformer that all families here are: pre-norm layers of attention and MLP.

Weights come from a WeightSource by their Hugging Face names; Q, K and V become one matrix, and so
do gate and up, so that a layer is four matrix products.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nearfield.kernels.ops import BoundDecoder, DecoderWeights, Heads, LayerWeights, Norm, OpTable, PackedWeight
from nearfield.layers.attention import Attention, StepInputs
from nearfield.layers.embedding import Embedding
from nearfield.layers.linear import Linear
from nearfield.layers.mlp import MLP
from nearfield.layers.rotary import Rotary
from nearfield.models.spec import ModelSpec


class ModelWeights(Protocol):
    """Where a model's weights come from, by their Hugging Face names."""

    def vector(self, name: str, size: int) -> Tensor:
        """The tensor `name` [size], a norm or a bias, as the operations take it."""
        ...

    def matrix(self, parts: Mapping[str, int], columns: int, *, table: bool = False) -> PackedWeight:
        """The matrices `parts` (a name and its rows each), one below the other, packed and prepared.

        table: it is the table of embeddings or the head, which may be stored in another format.
        """
        ...


@dataclass(frozen=True)
class DecoderLayer:
    """Attention, then MLP; each normalises its input and adds it to its output."""

    attn: Attention
    mlp: MLP

    def __call__(self, x: Tensor, step: StepInputs, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [T, D] to [T, D]."""
        return self.mlp(self.attn(x, step, rotation))


@dataclass(frozen=True)
class Decoder:
    """A whole model. `hidden` and `logits` are apart, so that only the rows that need logits get them.

    `bound`: all but the head as one operation, where the backend has it.
    """

    spec: ModelSpec
    ops: OpTable
    embed: Embedding
    layers: Sequence[DecoderLayer]
    bound: BoundDecoder | None
    norm: Norm
    head: Linear
    rotary: Rotary

    def hidden(self, step: StepInputs) -> Tensor:
        """The final-norm hidden state of every token of the step: [T, D]."""
        if self.bound is not None and step.kv is not None:
            return self.bound(step.tokens, step.positions, step.kv.layers, step.attn)
        rotation = self.rotary.at(step.positions)
        x = self.embed(step.tokens)
        for layer in self.layers:
            x = layer(x, step, rotation)
        return self.ops.rms_norm(x, self.norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [R, D] to logits [R, V], fp32."""
        return self.head(hidden).float()

    def linears(self) -> list[Linear]:
        """Every matrix that a token is multiplied by, in order, the head last."""
        inner = [m for layer in self.layers
                 for m in (layer.attn.qkv, layer.attn.out, layer.mlp.gate_up, layer.mlp.down)]
        return [*inner, self.head]


def build_decoder(spec: ModelSpec, weights: ModelWeights, ops: OpTable, positions: int,
                  progress: Callable[[int, int], None] = lambda done, total: None) -> Decoder:
    """Assemble a model for sequences of up to `positions` tokens. `progress(done, total)`: after each layer."""
    builder = _Builder(spec, weights, ops)
    table = weights.matrix({"model.embed_tokens.weight": spec.vocab_size}, spec.hidden_size, table=True)
    layers = []
    for i in range(spec.num_layers):
        layers.append(builder.layer(i))
        progress(i + 1, spec.num_layers)
    head = table if spec.tie_embeddings else weights.matrix({"lm_head.weight": spec.vocab_size}, spec.hidden_size,
                                                            table=True)
    norm = builder.norm("model.norm", spec.hidden_size)
    rotary = Rotary(spec.rope, spec.head_dim, positions, norm.weight.device)
    bound = None
    if ops.bind is not None:
        bound = ops.bind(DecoderWeights(table, [layer_weights(layer) for layer in layers], norm, rotary.angles))
    return Decoder(spec, ops, Embedding(ops, table), layers, bound, norm, Linear(ops, head), rotary)


def build_layer(spec: ModelSpec, weights: ModelWeights, ops: OpTable, index: int) -> DecoderLayer:
    """One layer of a model by itself, for those who take a model layer by layer."""
    return _Builder(spec, weights, ops).layer(index)


def layer_weights(layer: DecoderLayer) -> LayerWeights:
    """A layer as OpTable.bind takes it."""
    attn, mlp = layer.attn, layer.mlp
    return LayerWeights(attn.heads, attn.norm, attn.qkv.weight, attn.qkv.bias, attn.out.weight, attn.out.bias,
                        mlp.norm, mlp.gate_up.weight, mlp.gate_up.bias, mlp.down.weight, mlp.down.bias)


@dataclass(frozen=True)
class _Builder:
    spec: ModelSpec
    weights: ModelWeights
    ops: OpTable

    def layer(self, index: int) -> DecoderLayer:
        spec, prefix = self.spec, f"model.layers.{index}"
        attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        q, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        hidden, inner = spec.hidden_size, spec.intermediate_size
        heads = Heads(spec.num_kv_heads, spec.head_dim,
                      q_norm=self.norm(f"{attn}.q_norm", spec.head_dim) if spec.qk_norm else None,
                      k_norm=self.norm(f"{attn}.k_norm", spec.head_dim) if spec.qk_norm else None,
                      window=spec.windows[index])
        attention = Attention(
            self.ops, index, heads, self.norm(f"{prefix}.input_layernorm", hidden),
            qkv=self.linear(attn, {"q_proj": q, "k_proj": kv, "v_proj": kv}, hidden, spec.qkv_bias),
            out=self.linear(attn, {"o_proj": hidden}, q, spec.out_bias))
        feed = MLP(self.norm(f"{prefix}.post_attention_layernorm", hidden),
                   self.linear(mlp, {"gate_proj": inner, "up_proj": inner}, hidden, spec.mlp_bias),
                   self.linear(mlp, {"down_proj": hidden}, inner, spec.mlp_bias))
        return DecoderLayer(attention, feed)

    def linear(self, prefix: str, parts: dict[str, int], columns: int, bias: bool) -> Linear:
        weight = self.weights.matrix({f"{prefix}.{name}.weight": rows for name, rows in parts.items()}, columns)
        offset = torch.cat([self.weights.vector(f"{prefix}.{name}.bias", rows)
                            for name, rows in parts.items()]) if bias else None
        return Linear(self.ops, weight, offset)

    def norm(self, name: str, size: int) -> Norm:
        return Norm(self.weights.vector(f"{name}.weight", size), self.spec.norm_eps)
