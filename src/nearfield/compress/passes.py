"""A pass of calibration text through a model, one layer in memory at a time, each finished one on disk at once.

A run that was killed is continued by the same pass, to the same bits: hidden states are kept as they were.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nearfield.compress.folder import Progress
from nearfield.compress.journal import Journal
from nearfield.compress.plan import Plan
from nearfield.compress.walk import Site, Walk, sites
from nearfield.core.errors import ConfigError, ModelError
from nearfield.kernels import select
from nearfield.models.decoder import build_layer
from nearfield.models.inventory import EMBED
from nearfield.models.loader import CheckpointSource
from nearfield.models.weights import DenseWeights


class Work(Protocol):
    """What is done in one layer: a walk.Change. `tensors` are to be kept of it, and `facts` (for JSON), one a site."""

    tensors: dict[str, Tensor]
    facts: list[Any]

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        """As walk.Change."""
        ...


def open_device(name: str) -> torch.device:
    """The device that a pass computes on: "cpu" or "cuda". Raises ConfigError where torch has no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device here; leave the option out to compute on the CPU, "
                          "or install a build of torch with CUDA on a machine with such a GPU")
    return torch.device(name)


def run_pass(plan: Plan, ids: Tensor, journal: Journal, work: Callable[[Tensor], Work], device: torch.device,
             progress: Progress) -> None:
    """Take the text ids [B, T] through all layers that `journal` has not.

    work: made for each layer, of the hidden states [B T, D] that reach it. `progress`: sites (four a layer) done,
    and all. Raises ModelError for ids that are not the model's, and for a model whose states are not finite.
    """
    spec, ops = plan.spec, select.plain("fp32")
    walk, places, total = Walk(spec, ops, ids.shape[1]), sites(spec), 4 * plan.spec.num_layers
    states = (journal.states() if journal.done else _embedded(plan, ids)).to(device)
    for i in range(journal.done, spec.num_layers):
        progress(4 * i, total)
        start, doing = time.monotonic(), work(states)
        # Opened anew for each layer: what is mapped of a file counts as this process's memory.
        source = _On(device, CheckpointSource(plan.checkpoint.folder, torch.float32, tied=spec.tie_embeddings))

        def change(site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor, doing: Work = doing,
                   i: int = i) -> tuple[Tensor, Tensor | None]:
            made = doing(site, dense, norm, gram)
            progress(4 * i + len(doing.facts), total)
            return made

        walk.layer(build_layer(spec, DenseWeights(source, ops), ops, i), places[i], states, change)
        journal.add(i, doing.tensors, {"sites": doing.facts, "seconds": time.monotonic() - start}, states.cpu())
    progress(total, total)


def told(journal: Journal, layers: int) -> dict[str, Any]:
    """The facts of a finished pass: seconds, and of each site."""
    found = [journal.facts(i) for i in range(layers)]
    return {"seconds": round(sum(fact["seconds"] for fact in found), 1),
            "sites": [site for fact in found for site in fact["sites"]]}


@dataclass(frozen=True)
class _On:
    """A source of weights on a device."""

    device: torch.device
    source: CheckpointSource

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.source.get(name, shape).to(self.device)


def _embedded(plan: Plan, ids: Tensor) -> Tensor:
    """The hidden states [B T, D] fp32 that ids [B, T] begin with."""
    if int(ids.max()) >= plan.spec.vocab_size:
        raise ModelError(f"{plan.checkpoint.folder}: the tokenizer makes id {int(ids.max())}, config.json has a "
                         f"vocab_size of {plan.spec.vocab_size}; they are not of one model")
    name = next(name for name, new in plan.names.items() if new == EMBED)
    return functional.embedding(ids.flatten(), plan.checkpoint.stored(name)).float()
