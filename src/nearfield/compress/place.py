"""Where a new folder OUT is made: OUT.partial beside it, one run's alone, until OUT is whole.

A run marks OUT.partial as its own before it puts anything there, with what decides its result; the mark is the first
file there and the last to go. This module alone decides what becomes of a folder that is found there: what the same
run finished is continued, what a quick command left is cleared, and so is a run that had finished nothing. All else is
left as it is and refused: a folder without a mark is a user's own, and what another run finished may have taken hours.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nearfield.compress.device import other_device
from nearfield.compress.kept import put_whole
from nearfield.core.config import format_bytes
from nearfield.core.errors import ConfigError
from nearfield.models.gguf_folder import origin

Run = Mapping[str, Any]
"""What decides the result of a run that can be continued, for JSON: its "command", and the rest."""

_MODEL, _MARK = "model", "nearfield-run.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_out(out: Path, *inputs: Path) -> None:
    """Raises ConfigError where there is something at `out`, no folder to make it in, what is no run's own where it is
    made, or where one of the `inputs` (models' folders, files) is around it, or would be cleared with it."""
    if os.path.lexists(out):
        raise ConfigError(f"{out}: exists already; give a new folder, or remove it first")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out.absolute().parent}: no such folder; make it first")
    partial = partial_of(out)
    for source in inputs:
        if out.resolve().is_relative_to(source.resolve()):
            raise ConfigError(f"{out}: would lie in the model's own folder, {source}; give another place")
        for path in (origin(source), *source.glob("*")):
            if path.resolve().is_relative_to(partial.resolve()):
                raise ConfigError(f"{path}: lies in {partial}, where {out} would be made; move it, or give another "
                                  "name for the new folder")
    _check_own(out, partial)


def check_space(folder: Path, nbytes: int) -> None:
    """Raises OSError, as a disk that is full does, where that of `folder` has less room."""
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OSError(errno.ENOSPC, f"{format_bytes(nbytes)} are needed and {format_bytes(free)} free")


def partial_of(out: Path) -> Path:
    """Where `out` is made until it is whole."""
    return out.with_name(f"{out.name}.partial")


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends; nothing stays of it where it fails."""
    with claimed(out, None) as partial:
        yield empty_model(partial)
        (partial / _MODEL).rename(out)


@contextmanager
def made_in_steps(out: Path, run: Run) -> Iterator[Path]:
    """A folder for what a long run finishes on its way (kept.py); when the block ends, `model` in it (see
    `empty_model`) becomes `out`, and the rest goes."""
    with claimed(out, run) as partial:
        yield partial
        (partial / _MODEL).rename(out)


def empty_model(partial: Path) -> Path:
    """The empty folder in `partial` for the whole model. Raises OSError."""
    folder = partial / _MODEL
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    return folder


@contextmanager
def claimed(out: Path, run: Run | None) -> Iterator[Path]:
    """The folder where `out` is made, this run's alone until the block ends, and then gone. Where the block fails, it
    stays for the same `run` to continue with, if anything is finished; without a `run` it goes.

    Raises ConfigError where the folder is another's, `out` is there by now, or the disk refuses. A KeyboardInterrupt
    says what is left to continue with.
    """
    partial = partial_of(out)
    try:
        lock = _lock(out, partial)
        try:
            _check_free(out, partial, run)
            try:
                _begin(partial, run)
                yield partial
            except BaseException:
                if run is None or not has_finished(partial):
                    _remove(partial)
                raise
            _remove(partial)
        finally:
            os.close(lock)      # the kernel's, on the folder itself: it ends with the process, however that ends
    except KeyboardInterrupt:
        if os.path.lexists(out) or not has_finished(partial):
            raise KeyboardInterrupt from None
        raise KeyboardInterrupt(f"stopped; the same command continues with what is finished in {partial}") from None
    except OSError as error:
        raise _unwritable(out, partial, error) from None


def has_finished(folder: Path) -> bool:
    """Whether `folder` holds what a run has finished and may have taken hours: files of tensors, of any command but
    the quick ones."""
    if _marked(folder) is None:
        return False
    return any(has_finished(path) if path.is_dir() and not path.is_symlink() else path.suffix == ".safetensors"
               for path in (folder.iterdir() if folder.is_dir() else ()))


def clear(folder: Path, keep: Collection[Path] = ()) -> None:
    """Remove what is in the claimed `folder`, save its mark and `keep`. Raises OSError."""
    for path in folder.iterdir():
        if path in keep or path.name == _MARK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_own(out: Path, partial: Path) -> None:
    """Raises ConfigError for what no run of ours left at `partial`."""
    with suppress(FileNotFoundError):
        if partial.is_dir() and not partial.is_symlink():
            if _marked(partial) != {} or {path.name for path in partial.iterdir()} <= {_MARK, f"{_MARK}.part"}:
                return
        elif not os.path.lexists(partial):
            return
        raise ConfigError(f"{partial}: is where {out} would be made, and no run of this program made it; move or "
                          "remove it, or give another name for the new folder")


def _check_free(out: Path, partial: Path, run: Run | None) -> None:
    """Raises ConfigError where `out` is there by now, or the folder, which is locked, is not this run's to use."""
    if os.path.lexists(out):            # made by a run that had the folder until now
        with suppress(OSError):
            partial.rmdir()
    check_out(out)
    if not has_finished(partial) or _marked(partial) == _plain(run):
        return
    held, wanted = _marked(partial), _plain(run) or {}
    if "device" in held and {**held, "device": wanted.get("device")} == wanted:
        raise other_device(partial, held["device"], wanted["device"])
    what = held["command"]
    if what == wanted.get("command"):
        other = (key for key in {**held, **wanted} if held.get(key) != wanted.get(key))
        what += f" with another {', '.join(other)}"
    raise ConfigError(f"{partial}: has what another run ({what}) finished; repeat that command to continue it, or "
                      "remove that folder to begin anew")


def _begin(partial: Path, run: Run | None) -> None:
    """Mark the folder as this run's, and clear what is another's. Raises OSError."""
    wanted = json.dumps({"run": run})
    if run is None or _marked(partial) != _plain(run):
        clear(partial)          # before the mark tells of another run
        put_whole(partial / _MARK, lambda path: path.write_text(wanted, "utf-8"))


def _marked(partial: Path) -> Any:
    """What the run is that the folder is marked by: None for a quick one, {} where no run of ours marked it."""
    try:
        run = json.loads((partial / _MARK).read_text("utf-8"))["run"]
        return run if run is None or "command" in run else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _plain(run: Run | None) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(run))


def _remove(partial: Path) -> None:
    """The folder, as far as the disk lets it: the mark last."""
    with suppress(OSError):
        clear(partial)
        (partial / _MARK).unlink(missing_ok=True)
        partial.rmdir()


def _unwritable(out: Path, partial: Path, error: OSError) -> ConfigError:
    full = error.errno in _FULL
    if _marked(partial) and has_finished(partial):
        remedy = f"{'make room, and ' if full else ''}the same command continues with what is finished in {partial}, or"
    else:
        remedy = f"nothing is left of it;{' make room or' if full else ''}"
    return ConfigError(f"{error.filename or out}: cannot be written ({error.strerror}); {remedy} give another place")


def _lock(out: Path, partial: Path) -> int:
    """An open file that holds the folder `partial`, which is made where there is none."""
    while True:
        _check_own(out, partial)
        partial.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):       # the run that had it is done with it
            lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(partial)):
                    return lock                 # and not the one that had its name before
            except BlockingIOError:
                os.close(lock)
                raise ConfigError(f"{out} is being made by another run; wait for it, or give another folder") from None
            except OSError:
                os.close(lock)
                raise
            os.close(lock)
