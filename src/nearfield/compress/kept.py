"""Files of tensors that a long run keeps, each whole or not there: what the same command continues from.

A folder of `run.json` (what the run is) and safetensors, with the facts of each in its metadata. A file gets its name
when all of it is on the disk, whenever the run ended.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

_RUN = "run.json"


class Kept:
    """The files in `folder` of the run that `run` describes; another run's are thrown away. Raises OSError."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(run, sort_keys=True)
        if not self._is(text):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._put(folder / _RUN, lambda path: path.write_text(text))

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def path(self, name: str) -> Path:
        """Where the file called `name` is, or would be."""
        return self.folder / f"{name}.safetensors"

    def put(self, name: str, tensors: Mapping[str, Tensor], facts: Any = None) -> None:
        """Keep `tensors` and `facts` (for JSON) under `name`, in place of what was there."""
        held = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
        self._put(self.path(name), lambda path: _save(held, path, {"facts": json.dumps(facts)}))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors kept under `name`."""
        return load_file(self.path(name))

    def facts(self, name: str) -> Any:
        """The facts kept under `name`."""
        with safe_open(self.path(name), framework="pt") as file:
            return json.loads(file.metadata()["facts"])

    def drop(self, name: str) -> None:
        """Keep `name` no longer."""
        self.path(name).unlink(missing_ok=True)

    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def _is(self, text: str) -> bool:
        try:
            return (self.folder / _RUN).read_text("utf-8") == text
        except (OSError, ValueError):
            return False

    def _put(self, path: Path, write: Callable[[Path], object]) -> None:
        unfinished = path.with_name(f"{path.name}.part")
        write(unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:     # the disk's own errors come as these
        raise OSError(errno.EIO, str(error), str(path)) from None
