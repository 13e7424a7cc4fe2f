"""A pass of calibration text through a model, one layer in memory at a time, each finished one on disk at once.

A run that was killed is continued by the same pass, to the same bits: hidden states are kept as they were.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from nearfield.compress.folder import Progress
from nearfield.compress.journal import Journal
from nearfield.compress.parent import Parent
from nearfield.compress.stream import embedded, read_layer
from nearfield.compress.walk import Site, Walk, sites
from nearfield.kernels import select


class Work(Protocol):
    """What is done in one layer: a walk.Change. `tensors` are to be kept of it, and `facts` (for JSON), one a site."""

    tensors: dict[str, Tensor]
    facts: list[Any]

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        """As walk.Change."""
        ...


def run_pass(parent: Parent, ids: Tensor, journal: Journal, work: Callable[[Tensor], Work], device: torch.device,
             progress: Progress) -> None:
    """Take the text ids [B, T] through all layers that `journal` has not.

    work: made for each layer, of the hidden states [B T, D] that reach it. `progress`: sites (four a layer) done,
    and all. Raises ModelError for ids that are not the model's, and for a model whose states are not finite.
    """
    spec, ops = parent.spec, select.plain("fp32")
    walk, places, total = Walk(spec, ops, ids.shape[1]), sites(spec), 4 * parent.spec.num_layers
    states = (journal.states() if journal.done else embedded(parent, ids)).to(device)
    for i in range(journal.done, spec.num_layers):
        progress(4 * i, total)
        start, doing = time.monotonic(), work(states)

        def change(site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor, doing: Work = doing,
                   i: int = i) -> tuple[Tensor, Tensor | None]:
            made = doing(site, dense, norm, gram)
            progress(4 * i + len(doing.facts), total)
            return made

        walk.layer(read_layer(parent, ops, i, device), places[i], states, change)
        journal.add(i, doing.tensors, {"sites": doing.facts, "seconds": time.monotonic() - start}, states)
    progress(total, total)


def told(journal: Journal, layers: int) -> dict[str, Any]:
    """The facts of a finished pass: seconds, and of each site."""
    found = [journal.facts(i) for i in range(layers)]
    return {"seconds": round(sum(fact["seconds"] for fact in found), 1),
            "sites": [site for fact in found for site in fact["sites"]]}
