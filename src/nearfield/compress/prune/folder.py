"""Pruning: a model with fewer layers, narrower MLPs or fewer heads becomes a folder of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfield.compress.folder import Progress


@dataclass(frozen=True)
class PruneOptions:
    """What goes. ffn: the share of each MLP's channels that stays; layers, heads: how many layers, and key/value heads
    of each layer with their query heads, fewer (-4: four fewer). None: nothing of this kind.

    compensate: whether what stays takes over, by least squares, what went.
    """

    ffn: float | None = None
    layers: int | None = None
    heads: int | None = None
    compensate: bool = True


def prune_folder(source: Path, out: Path, options: PruneOptions, texts: Sequence[Path], *,
                 progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source`, pruned by what the files `texts` show of it, to the new folder `out`."""
    raise NotImplementedError
