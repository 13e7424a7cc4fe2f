"""Which layers can go: ranked by how little they turn the hidden states, the last ones by what their going does.

The rank is 1 - cos(h_in, h_out), as in ShortGPT (Men et al. 2024, arXiv 2403.03853); it costs one pass. What a
model without a layer says is the better judge, and dearer: it decides about the last layers to go, among those
that rank lowest then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nearfield.compress.finite import overflowing
from nearfield.compress.parent import Parent
from nearfield.compress.stream import embedded, read_head, read_layer
from nearfield.kernels import select
from nearfield.kernels.ops import OpTable
from nearfield.layers.attention import dense_inputs
from nearfield.layers.rotary import Rotary
from nearfield.models.decoder import DecoderLayer

CHECKED, SHORTLIST = 2, 4
"""The layers whose going is measured, and how many are tried for each."""

_MEASURED = 8
"""Chunks of text that are measured by, the second half of each."""

_TOKENS = 4096
_ROWS = 64
"""Tokens computed at once, and places whose logits exist at once: they are several V doubles each."""

Dropped = frozenset[int]


@dataclass(frozen=True)
class Passes:
    """A dense model in fp32 on a device, for passes over chunks of ids [B, T] in which a layer is there at a time.

    layer_done: called after each layer of a pass.
    """

    parent: Parent
    chunks: Tensor
    device: torch.device
    layer_done: Callable[[], object] = lambda: None
    ops: OpTable = field(default_factory=lambda: select.plain("fp32"))

    @torch.inference_mode()
    def influences(self) -> list[float]:
        """1 - cos(h_in, h_out) of each layer, the mean over all tokens."""
        states, found = embedded(self.parent, self.chunks).to(self.device), []
        for i in range(self.parent.spec.num_layers):
            after = self._through(read_layer(self.parent, self.ops, i, self.device), states, self.chunks)
            if not bool(after.isfinite().all()):
                raise overflowing(self.parent.checkpoint.folder, i)
            found.append(1 - float(functional.cosine_similarity(states, after, dim=-1).double().mean()))
            states = after
            self.layer_done()
        return found

    @torch.inference_mode()
    def divergences(self, branches: Sequence[Dropped]) -> list[float]:
        """The mean KL in nats of the whole model from itself without the layers of each branch."""
        chunks = self.chunks[::max(1, len(self.chunks) // _MEASURED)][:_MEASURED]
        whole, *others = self._finals(chunks, [frozenset(), *branches])
        norm, head = read_head(self.parent, self.ops, self.device)

        def said(states: Tensor) -> Tensor:
            logits: Tensor = head(self.ops.rms_norm(states, norm)).double()
            return logits.log_softmax(-1)

        found = torch.zeros(len(others), dtype=torch.float64, device=self.device)
        for at in range(0, len(whole), _ROWS):
            base = said(whole[at:at + _ROWS])
            for i, states in enumerate(others):
                found[i] += (base.exp() * (base - said(states[at:at + _ROWS]))).sum()
        return [float(total) / len(whole) for total in found]

    def _finals(self, chunks: Tensor, branches: Sequence[Dropped]) -> list[Tensor]:
        """The last states [B T / 2, D] of the chunks' second halves in each branch. What begins alike is computed
        once: states are kept by the layers that were left out so far."""
        states: dict[Dropped, Tensor] = {frozenset(): embedded(self.parent, chunks).to(self.device)}
        for i in range(self.parent.spec.num_layers):
            layer, grown = read_layer(self.parent, self.ops, i, self.device), {}
            for past, held in states.items():
                here = [branch for branch in branches if past == {j for j in branch if j < i}]
                if any(i in branch for branch in here):
                    grown[past | {i}] = held
                if any(i not in branch for branch in here):
                    grown[past] = self._through(layer, held, chunks)
            states = grown
            self.layer_done()
        half = chunks.shape[1] // 2
        return [states[branch].view(len(chunks), chunks.shape[1], -1)[:, half:].flatten(0, 1) for branch in branches]

    def _through(self, layer: DecoderLayer, states: Tensor, chunks: Tensor) -> Tensor:
        """The states [B T, D] after a layer."""
        length, spec = chunks.shape[1], self.parent.spec
        rotary, made = Rotary(spec.rope, spec.head_dim, length, self.device), torch.empty_like(states)
        step = max(1, _TOKENS // length)
        for first in range(0, len(chunks), step):
            inputs = dense_inputs(chunks[first:first + step].to(self.device))
            rows = slice(first * length, (first + step) * length)
            made[rows] = layer(states[rows], inputs, rotary.at(inputs.positions))
        return made


@dataclass(frozen=True)
class Choice:
    """The next layers to go, and why. kl: of the model without each that was tried, by its number; empty where the
    rank alone decided."""

    layers: tuple[int, ...]
    kl: dict[int, float]


def next_choice(passes: Passes, influences: Sequence[float], gone: Dropped, count: int) -> Choice:
    """Choose of the layers that have not `gone`, until `count` have."""
    ranked = [i for i in sorted(range(len(influences)), key=lambda i: influences[i]) if i not in gone]
    unchecked = count - CHECKED - len(gone)
    if unchecked > 0:
        return Choice(tuple(ranked[:unchecked]), {})
    tried = ranked[:SHORTLIST]
    found = dict(zip(tried, passes.divergences([gone | {i} for i in tried]), strict=True))
    return Choice((min(tried, key=lambda i: found[i]),), found)


def told(influences: Sequence[float], choices: Sequence[Choice]) -> dict[str, Any]:
    """For a report."""
    return {"dropped": sorted(i for choice in choices for i in choice.layers),
            "influence": [float(f"{value:.5g}") for value in influences],
            "measured": [{"dropped": choice.layers[0],
                          "kl_without": {str(i): float(f"{kl:.5g}") for i, kl in choice.kl.items()}}
                         for choice in choices if choice.kl]}
