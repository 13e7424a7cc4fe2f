"""Text through a model, one layer at a time, with each layer changed on the way: what one calibration pass is.

Hidden states of all the text are in memory, and one layer. Within a layer the matrices are taken in the order in
which they are applied, and each sees the inputs that the changed matrices before it make (GPTQ's "true-sequential").
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from nearfield.compress.gram import Gram
from nearfield.core.errors import ModelError
from nearfield.kernels.ops import AttnPlan, AttnRow, Norm, OpTable, PackedWeight
from nearfield.kernels.reference.dense import silu_mul
from nearfield.layers.linear import Linear
from nearfield.layers.rotary import Rotary
from nearfield.models.decoder import DecoderLayer
from nearfield.models.inventory import take_inventory
from nearfield.models.spec import ModelSpec

_TOKENS = 4096
"""Tokens computed at once: enough for quick products, few enough for the widest layer's inner states."""


@dataclass(frozen=True)
class Site:
    """An input of layer `layer`, and the matrices [rows, columns] that read it, one below the other, by their names.

    norm: the name of the norm that makes the input, where one does.
    """

    layer: int
    parts: dict[str, tuple[int, int]]
    norm: str | None

    @property
    def label(self) -> str:
        """For people: the first matrix's name, without what all names have."""
        return next(iter(self.parts)).removeprefix("model.").removesuffix(".weight")


class Change(Protocol):
    """What is done to the matrices of a site."""

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        """The matrix [N, K] fp32 and the norm [K] to go on with, of those there are; gram [K, K] of the input."""
        ...


def sites(spec: ModelSpec) -> list[tuple[Site, ...]]:
    """The four sites of each layer, in the order in which they are applied."""
    linears = take_inventory(spec).linears
    layers = []
    for i in range(spec.num_layers):
        norm = f"model.layers.{i}."
        norms = (f"{norm}input_layernorm.weight", None, f"{norm}post_attention_layernorm.weight", None)
        layers.append(tuple(Site(i, parts, name)
                            for parts, name in zip(linears[4 * i:4 * i + 4], norms, strict=True)))
    return layers


class Walk:
    """Rows of text [B, T] of one length on their way through a model of fp32 layers, in the reference backend."""

    def __init__(self, spec: ModelSpec, ops: OpTable, length: int) -> None:
        self._ops, self._length = ops, length
        self._rotary = Rotary(spec.rope, spec.head_dim, length)

    @torch.inference_mode()
    def layer(self, layer: DecoderLayer, places: tuple[Site, ...], states: Tensor, change: Change) -> None:
        """Take the hidden states [B T, D] through `layer`, in place, as `change` leaves its matrices.

        Raises ModelError where an input is not finite.
        """
        qkv, out, gate_up, down = places
        attn, mlp, linear = layer.attn, layer.mlp, self._ops.linear
        linear_qkv, norm = self._changed(qkv, attn.qkv, attn.norm, change, (
            self._ops.rms_norm(states[rows], attn.norm) for rows in self._batches(states)))
        mixed = torch.empty(len(states), attn.out.weight.shape[1], device=states.device)
        for rows in self._batches(states):
            mixed[rows] = self._attend(layer, linear_qkv(states[rows], norm=norm))
        linear_out, _ = self._changed(out, attn.out, None, change, (mixed[rows] for rows in self._batches(states)))
        for rows in self._batches(states):
            states[rows] = linear_out(mixed[rows], residual=states[rows])
        del mixed
        linear_gate, norm = self._changed(gate_up, mlp.gate_up, mlp.norm, change, (
            self._ops.rms_norm(states[rows], mlp.norm) for rows in self._batches(states)))
        # The widest states of a model are computed twice rather than kept.
        linear_down, _ = self._changed(down, mlp.down, None, change, (
            silu_mul(linear_gate(states[rows], norm=norm)) for rows in self._batches(states)))
        for rows in self._batches(states):
            inner = linear_gate(states[rows], norm=norm)
            states[rows] = linear(inner, linear_down.weight, linear_down.bias, gated=True, residual=states[rows])

    def _changed(self, site: Site, linear: Linear, norm: Norm | None, change: Change,
                 inputs: Iterator[Tensor]) -> tuple[Linear, Norm | None]:
        dense = linear.weight.tensors["weight"]
        gram = Gram(dense.shape[1], dense.device)
        for batch in inputs:
            gram.add(batch)
        found = gram.matrix()
        if not bool(found.diagonal().isfinite().all()):
            raise ModelError(f"{site.label}: its input, computed from the calibration text, is not finite; the "
                             "checkpoint is damaged, or a layer before it overflows")
        made, scale = change(site, dense, None if norm is None else norm.weight, found)
        changed = replace(linear, weight=PackedWeight("dense", linear.weight.shape, {"weight": made}))
        return changed, norm if norm is None or scale is None else replace(norm, weight=scale)

    def _attend(self, layer: DecoderLayer, qkv: Tensor) -> Tensor:
        count = len(qkv) // self._length
        plan = AttnPlan(tuple(AttnRow(i * self._length, self._length, 0, ()) for i in range(count)))
        cos, sin = self._rotary.at(torch.arange(self._length).repeat(count))
        return self._ops.attention(qkv, layer.attn.heads, (cos.to(qkv.device), sin.to(qkv.device)), None, plan)

    def _batches(self, states: Tensor) -> Iterator[slice]:
        """Whole rows of text."""
        step = max(1, _TOKENS // self._length) * self._length
        return (slice(first, min(first + step, len(states))) for first in range(0, len(states), step))
