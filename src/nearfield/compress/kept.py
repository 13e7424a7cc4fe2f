"""Files of tensors that a long run keeps, each whole or not there: what the same command continues from.

A folder of safetensors, with the facts of each in its metadata. A file gets its name when all of it is on the disk,
whenever the run ended. Whose they are is the matter of the folder that they lie in (place.py).
"""

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


class Kept:
    """The files in `folder`, which is made where there is none. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def path(self, name: str) -> Path:
        """Where the file called `name` is, or would be."""
        return self.folder / f"{name}.safetensors"

    def put(self, name: str, tensors: Mapping[str, Tensor], facts: Any = None) -> None:
        """Keep `tensors` and `facts` (for JSON) under `name`, in place of what was there."""
        held = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        put_whole(self.path(name), lambda path: _save(held, path, {"facts": json.dumps(facts)}))

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

    def clear(self) -> None:
        """Keep nothing."""
        for path in self.folder.iterdir():
            path.unlink()

    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


def put_whole(path: Path, write: Callable[[Path], object]) -> None:
    """The file `path`, which is the old one, or none, until all that `write` wrote is on the disk. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.part")
    write(unfinished)
    with open(unfinished, "rb+") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:     # the disk's own errors come as these, in words
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from None
