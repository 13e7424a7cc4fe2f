"""What a student learns from its teacher: all of it by the logits, or one layer by the hidden states around it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfield.compress.distill.chunks import Chunks
from nearfield.compress.distill.loss import Side, distance_gradient, divergence, divergence_and_gradient
from nearfield.compress.distill.network import Network
from nearfield.layers.attention import dense_inputs
from nearfield.layers.rotary import Rotary

AT_ONCE = 4
"""Chunks that go through a model at once where nothing is learned from them."""

OF_HIDDEN = 3.0
"""What the hidden states' distance counts beside the divergence: of 0, 1, 3 and 10 the one by which the pocket model's
student agreed with it most (docs/decisions/011)."""


@dataclass(frozen=True)
class WholeTask:
    """Forward KL of the student's next-token distributions, the teacher's made of its final hidden states; and where
    both have as many numbers, the distance of the student's from these. What is told, and judged by, is KL alone.

    said: `ids` [L] and `hidden` [L, D] of each chunk. head: the teacher's.
    """

    student: Network
    head: Tensor
    said: Chunks
    held: Sequence[int]

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.student.weights

    def learn(self, chunks: Sequence[int]) -> float:
        side, taught = self.student.side(self.said.rows("ids", chunks)), self._taught(chunks)
        hidden, head = side.hidden.detach(), side.head.detach()
        loss, gradient = divergence_and_gradient(taught, Side(hidden, head))
        by_hidden = gradient.hidden
        if hidden.shape == taught.hidden.shape:
            away = distance_gradient(taught.hidden, hidden)
            by_hidden = by_hidden + (OF_HIDDEN * away).to(by_hidden.dtype)
        torch.autograd.backward((side.hidden, side.head), (by_hidden, gradient.head))
        return loss

    @torch.no_grad()
    def held_out(self) -> float:
        return _mean((divergence(self._taught(chunks), self.student.side(self.said.rows("ids", chunks))), len(chunks))
                     for chunks in _batches(self.held))

    def _taught(self, chunks: Sequence[int]) -> Side:
        return Side(self.said.rows("hidden", chunks).flatten(0, 1), self.head)


@dataclass(frozen=True)
class LayerTask:
    """The squared error of a layer's output, as a share of what it should be, token by token.

    given, wanted: the `states` [L, D] of each chunk before the teacher's layers that this one stands for, and after.
    """

    student: Network
    index: int
    given: Chunks
    wanted: Chunks
    held: Sequence[int]

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.student.layer_weights(self.index)

    def learn(self, chunks: Sequence[int]) -> float:
        loss = self._loss(chunks)
        torch.autograd.backward(loss)
        return loss.item()

    @torch.no_grad()
    def held_out(self) -> float:
        return _mean((float(self._loss(chunks)), len(chunks)) for chunks in _batches(self.held))

    def _loss(self, chunks: Sequence[int]) -> Tensor:
        made = through(self.student, range(self.index, self.index + 1), self.given.rows("states", chunks)).float()
        wanted = self.wanted.rows("states", chunks).float()
        # A share of each token's own size: the first token of a text is a hundred times as large as others.
        return ((made - wanted).square().sum(-1) / wanted.square().sum(-1)).mean()


def through(network: Network, layers: range, states: Tensor) -> Tensor:
    """Hidden states [B, L, D] of texts after these layers of a network."""
    count, length, _ = states.shape
    step = dense_inputs(torch.zeros(count, length, dtype=torch.int64, device=states.device))
    rotation = Rotary(network.spec.rope, network.spec.head_dim, length, states.device).at(step.positions)
    x = states.flatten(0, 1)
    for index in layers:
        x = network.layer(index)(x, step, rotation)
    return x.view(states.shape)


def _batches(chunks: Sequence[int]) -> Iterator[Sequence[int]]:
    return (chunks[first:first + AT_ONCE] for first in range(0, len(chunks), AT_ONCE))


def _mean(weighed: Iterator[tuple[float, int]]) -> float:
    pairs = list(weighed)
    return sum(loss * count for loss, count in pairs) / sum(count for _, count in pairs)
