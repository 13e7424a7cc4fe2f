"""Files of tensors that a long run keeps, each whole or not there: what the same command continues from.

A folder of `run.json` (what the run is) and safetensors, with the facts of each in its metadata. A file gets its name
when all of it is on the disk, whenever the run ended. What a run of other options has kept is of no use to this one;
what it has kept on another device may have taken hours, and is left for the user to decide about.
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

from nearfield.compress.device import other_device

_RUN = "run.json"


class Kept:
    """The files in `folder` of the run that `run` describes; another run's are thrown away. Raises OSError, and
    ConfigError where only the run's "device" is another."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(run, sort_keys=True)
        held, wanted = self._held(), json.loads(text)
        if held != wanted:
            if _is_on_other_device(held, wanted) and any(folder.glob("*.safetensors")):
                raise other_device(folder.parent, held["device"], wanted["device"])
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
        held = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
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

    def _held(self) -> Any:
        """What the run is of which the folder has files, or None where there is none."""
        try:
            return json.loads((self.folder / _RUN).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def _put(self, path: Path, write: Callable[[Path], object]) -> None:
        unfinished = path.with_name(f"{path.name}.part")
        write(unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)


def _is_on_other_device(held: Any, wanted: dict[str, Any]) -> bool:
    return isinstance(held, dict) and "device" in held and {**held, "device": wanted.get("device")} == wanted


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:     # the disk's own errors come as these
        raise OSError(errno.EIO, str(error), str(path)) from None
