"""What a long run has finished, on disk layer by layer: the same command continues where it was killed.

A folder of `run.json` (what the run is), `layer-*.safetensors` (what was made of each layer, and in its metadata
the facts), and `states.safetensors` (the hidden states after the last finished layer). Each file gets its name when
all of it is on the disk, the states last: what is there is whole, whenever the run ended.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

_RUN, _STATES = "run.json", "states.safetensors"


class Journal:
    """The journal in `folder` of the run that `run` describes; another run's is thrown away. Raises OSError."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self._folder = folder
        text = json.dumps(run, sort_keys=True)
        if not self._is(text):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._put(_RUN, text.encode())

    @property
    def done(self) -> int:
        """Layers finished."""
        return 0 if (metadata := self._metadata(_STATES)) is None else int(metadata["layers"])

    def states(self) -> Tensor:
        """The hidden states after the last finished layer, of which there is one."""
        return load_file(self._folder / _STATES)["states"]

    def add(self, layer: int, tensors: Mapping[str, Tensor], facts: Any, states: Tensor) -> None:
        """Layer `layer` is finished: `tensors` were made of it, `facts` (for JSON) are to be told."""
        self._put(_layer_file(layer), save(dict(tensors), {"facts": json.dumps(facts)}))
        self._put(_STATES, save({"states": states}, {"layers": str(layer + 1)}))

    def layer(self, layer: int) -> dict[str, Tensor]:
        """The tensors made of a finished layer."""
        return load_file(self._folder / _layer_file(layer))

    def facts(self, layer: int) -> Any:
        """The facts of a finished layer."""
        metadata = self._metadata(_layer_file(layer))
        return json.loads("null" if metadata is None else metadata["facts"])

    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self._folder.iterdir() if path.is_file())

    def _is(self, text: str) -> bool:
        try:
            return (self._folder / _RUN).read_text("utf-8") == text
        except (OSError, ValueError):
            return False

    def _metadata(self, name: str) -> dict[str, str] | None:
        if not (self._folder / name).exists():
            return None
        with safe_open(self._folder / name, framework="pt") as file:
            return dict(file.metadata())

    def _put(self, name: str, data: bytes) -> None:
        unfinished = self._folder / f"{name}.part"
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / name)


def _layer_file(layer: int) -> str:
    return f"layer-{layer:04d}.safetensors"
