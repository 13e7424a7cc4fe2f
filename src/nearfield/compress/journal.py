"""What a long walk has finished, on disk layer by layer: the same command continues where it was killed.

`layer-*` is what was made of each layer and the facts, `states` the hidden states after the last finished layer,
written last: what is there is whole, whenever the run ended (kept.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfield.compress.kept import Kept

_STATES = "states"


class Journal:
    """The journal in `folder`, which is made where there is none. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._kept = Kept(folder)

    @property
    def done(self) -> int:
        """Layers finished."""
        return int(self._kept.facts(_STATES)) if _STATES in self._kept else 0

    def states(self) -> Tensor:
        """The hidden states after the last finished layer, of which there is one."""
        return self._kept.tensors(_STATES)["states"]

    def add(self, layer: int, tensors: Mapping[str, Tensor], facts: Any, states: Tensor) -> None:
        """Layer `layer` is finished: `tensors` were made of it, `facts` (for JSON) are to be told."""
        self._kept.put(_layer(layer), tensors, facts)
        self._kept.put(_STATES, {"states": states}, layer + 1)

    def layer(self, layer: int) -> dict[str, Tensor]:
        """The tensors made of a finished layer."""
        return self._kept.tensors(_layer(layer))

    def facts(self, layer: int) -> Any:
        """The facts of a finished layer."""
        return self._kept.facts(_layer(layer))


def _layer(layer: int) -> str:
    return f"layer-{layer:04d}"
