"""A model by its weights: the one that teaches in bf16, the one that learns in fp32, run through the code that serves.

Each forward assembles the decoder anew from the weights cast to bf16, so that gradients flow through the casts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.compress.distill.loss import Side
from nearfield.compress.parent import Parent
from nearfield.compress.stream import CPU
from nearfield.kernels import select
from nearfield.layers.attention import dense_inputs
from nearfield.models.decoder import Decoder, DecoderLayer, build_decoder, build_layer
from nearfield.models.inventory import EMBED, take_inventory
from nearfield.models.loader import CheckpointSource
from nearfield.models.spec import ModelSpec
from nearfield.models.weights import CastWeights, DenseWeights

DTYPE = torch.bfloat16
"""What computes, on both sides: in half the time of fp32, and 0.00004 nats from it on the pocket model."""


@dataclass(frozen=True)
class Network:
    """A model of shape `spec` and its weights by their Hugging Face names, all on one device."""

    spec: ModelSpec
    weights: Mapping[str, Tensor]

    @classmethod
    def load(cls, parent: Parent, dtype: torch.dtype, device: torch.device = CPU) -> "Network":
        """Its weights in the device's memory. Raises ModelError for a checkpoint that cannot be read."""
        spec, found = parent.spec, take_inventory(parent.spec)
        source = CheckpointSource(parent.checkpoint.folder, dtype, tied=spec.tie_embeddings)
        shapes = {**{name: (size,) for name, size in found.vectors.items()}, **found.tables, **parent.linears}
        return cls(spec, {name: source.get(name, shape).to(device) for name, shape in shapes.items()})

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.weights[EMBED].device

    def side(self, ids: Tensor) -> Side:
        """What makes the logits after each of ids [B, L], as a graph to differentiate."""
        model = self.decoder(ids.shape[1])
        return Side(model.hidden(dense_inputs(ids.to(self.device))), model.head.weight.tensors["weight"])

    def decoder(self, positions: int) -> Decoder:
        """The model as its weights are now, for texts of `positions` tokens."""
        ops = select.plain("bf16")
        return build_decoder(self.spec, DenseWeights(CastWeights(self.weights, DTYPE), ops), ops, positions)

    def layer(self, index: int) -> DecoderLayer:
        """One layer by itself."""
        ops = select.plain("bf16")
        return build_layer(self.spec, DenseWeights(CastWeights(self.weights, DTYPE), ops), ops, index)

    def layer_weights(self, index: int) -> dict[str, Tensor]:
        """The weights of one layer."""
        prefix = f"model.layers.{index}."
        return {name: tensor for name, tensor in self.weights.items() if name.startswith(prefix)}
