"""A dense model's parts from disk, each when it is its turn: memory holds one layer, however large the model."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nearfield.compress.parent import Parent
from nearfield.core.errors import ModelError
from nearfield.kernels.ops import Norm, OpTable
from nearfield.layers.linear import Linear
from nearfield.models.decoder import DecoderLayer, build_layer
from nearfield.models.inventory import EMBED, HEAD
from nearfield.models.loader import CheckpointSource
from nearfield.models.weights import DenseWeights

CPU = torch.device("cpu")


def embedded(parent: Parent, ids: Tensor) -> Tensor:
    """The hidden states [B T, D] fp32 that ids [B, T] begin with."""
    if int(ids.max()) >= parent.spec.vocab_size:
        raise ModelError(f"{parent.checkpoint.folder}: the tokenizer makes id {int(ids.max())}, config.json has a "
                         f"vocab_size of {parent.spec.vocab_size}; they are not of one model")
    name = next(name for name, new in parent.names.items() if new == EMBED)
    return functional.embedding(ids.flatten(), parent.checkpoint.stored(name)).float()


def read_layer(parent: Parent, ops: OpTable, index: int, device: torch.device = CPU) -> DecoderLayer:
    """A layer in fp32, on a device."""
    return build_layer(parent.spec, _weights(parent, ops, device), ops, index)


def read_head(parent: Parent, ops: OpTable, device: torch.device = CPU) -> tuple[Norm, Linear]:
    """What makes logits of the last layer's states, in fp32, on a device."""
    spec, weights = parent.spec, _weights(parent, ops, device)
    name = EMBED if spec.tie_embeddings else HEAD
    head = weights.matrix({name: spec.vocab_size}, spec.hidden_size, table=True)
    return Norm(weights.vector("model.norm.weight", spec.hidden_size), spec.norm_eps), Linear(ops, head)


@dataclass(frozen=True)
class _On:
    """A source of weights on a device."""

    device: torch.device
    source: CheckpointSource

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.source.get(name, shape).to(self.device)

    def place(self, name: str) -> str:
        return self.source.place(name)


def _weights(parent: Parent, ops: OpTable, device: torch.device = CPU) -> DenseWeights:
    """Opened anew each time: what is mapped of a file counts as this process's memory."""
    source = CheckpointSource(parent.checkpoint.folder, torch.float32, tied=parent.spec.tie_embeddings)
    return DenseWeights(_On(device, source), ops)
