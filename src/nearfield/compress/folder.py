"""Writing a model again with its matrices as codes: a standard folder (compressed-tensors) from a dense one.

One tensor is in memory at a time. The folder is written under a temporary name beside its own and renamed
when it is whole, so that there is never half a model. Norms stay dense, and embeddings and head where the plan says
so: not every version of vLLM reads them otherwise, and here they become int8 at load.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfield.compress.finite import check_codable
from nearfield.compress.plan import Plan, Target, make_plan, packer, stored_name
from nearfield.compress.report import REPORT, add_section, run_facts
from nearfield.core.config import format_bytes
from nearfield.core.errors import ConfigError
from nearfield.formats.checkpoint import PICKLES, Entry
from nearfield.formats.compressed import encode
from nearfield.formats.shards import SHARD_BYTES, ShardWriter

Progress = Callable[[int, int], None]
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin.index.json", ".gguf", ".onnx", ".h5", ".msgpack", *PICKLES)
_OWN = ("config.json", "report.html")
"""Files that are not the parent's to give: one is written anew, the other is of the parent's measurements."""

_MODEL = "model"


def quantize_folder(source: Path, out: Path, target: Target, *, shard_bytes: int = SHARD_BYTES,
                    progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source` to the new folder `out`, its weights rounded to nearest, each scale
    searched for the least squared error (reference/rounding.py). `progress`: tensors done, and all.

    Raises ModelError for a model that cannot be quantised so, ConfigError where `out` cannot be written.
    """
    check_out(out, source)
    plan, start = make_plan(source, target), time.monotonic()
    with made_whole(out) as folder:
        check_space(folder, sum(entry.nbytes for entry in plan.entries().values()))
        write_model(plan, folder, lambda name: rounded(plan, name), shard_bytes, progress)
        add_section(folder / REPORT, "quantize", {
            **run_facts(plan, {**target.recipe, "method": "rtn"}), "seconds": round(time.monotonic() - start, 1)})


def check_out(out: Path, *sources: Path) -> None:
    """Raises ConfigError where there is something at `out`, no folder to make it in, or one of the models' `sources`
    around it."""
    if out.exists():
        raise ConfigError(f"{out}: exists already; give a new folder, or remove it first")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out.absolute().parent}: no such folder; make it first")
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise ConfigError(f"{out}: would lie in the model's own folder, {source}; give another place")


def check_space(folder: Path, nbytes: int) -> None:
    """Raises OSError, as a disk that is full does, where that of `folder` has less room."""
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OSError(errno.ENOSPC, f"{format_bytes(nbytes)} are needed and {format_bytes(free)} free")


def write_model(plan: Plan, folder: Path, made: Callable[[str], Mapping[str, Tensor]], shard_bytes: int,
                progress: Progress = lambda done, total: None) -> None:
    """Write all files of the model. `made`: what is stored, by the names to write, of what the parent calls so."""
    def tensors() -> Iterator[tuple[str, Tensor]]:
        for done, name in enumerate(plan.names):
            progress(done, len(plan.names))
            yield from made(name).items()
        progress(len(plan.names), len(plan.names))

    write_files(folder, plan.described(), plan.entries(), tensors(), shard_bytes)
    copy_others(plan.checkpoint.folder, folder)


def write_files(folder: Path, config: Mapping[str, Any], entries: Mapping[str, Entry],
                tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json and the weights: the tensors `entries`, each once, in any order. Raises OSError."""
    with ShardWriter(folder, entries, shard_bytes) as writer:
        for name, tensor in tensors:
            writer.write(name, tensor)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def other_files(parent: Path) -> list[Path]:
    """The files that are the same of any model made of `parent`: tokenizer, templates, licence. Raises OSError."""
    return [path for path in sorted(parent.iterdir())       # its folders hold second copies of weights
            if path.is_file() and path.name not in _OWN and not path.name.endswith(_WEIGHTS)]


def copy_others(parent: Path, folder: Path) -> None:
    """Copy what is the same of any model made of `parent`. Raises OSError."""
    for path in other_files(parent):
        shutil.copyfile(path, folder / path.name)


def partial_of(out: Path) -> Path:
    """Where `out` is made until it is whole."""
    return out.with_name(f"{out.name}.partial")


@contextmanager
def held(out: Path) -> Iterator[Path]:
    """The folder where `out` is made, this run's alone until the block ends. Raises ConfigError where it is another's,
    or `out` is there by now; OSError.

    The lock is the kernel's, on the folder itself: it ends with the process, however that ends, and leaves no file.
    A KeyboardInterrupt says what is left to continue with.
    """
    partial = partial_of(out)
    lock = _lock(out, partial)
    try:
        if out.exists():        # by a run that had it until now
            with suppress(OSError):
                partial.rmdir()
            check_out(out)
        yield partial
    except KeyboardInterrupt:
        if out.exists() or not partial.is_dir() or not any(partial.iterdir()):
            raise KeyboardInterrupt from None
        raise KeyboardInterrupt(f"stopped; the same command continues with what is finished in {partial}") from None
    finally:
        os.close(lock)


def _lock(out: Path, partial: Path) -> int:
    """An open file that holds the folder `partial`, which is made where there is none."""
    while True:
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


def clear(folder: Path, keep: Collection[Path] = ()) -> None:
    """Remove what is in `folder`, save `keep`. Raises OSError."""
    for path in folder.iterdir():
        if path in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends, and is removed when it fails."""
    try:
        with held(out) as partial:
            try:
                clear(partial)      # of a run that was killed
                yield partial
                partial.rename(out)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: cannot be written ({error.strerror}); nothing is left of it; "
                          "make room or give another place") from None


@contextmanager
def made_in_steps(out: Path) -> Iterator[Path]:
    """A folder for what a long run finishes on its way (kept.py); when the block ends, `model` in it (see
    `empty_model`) becomes `out`, and the rest goes. Where the block fails, all stays for the same command to continue
    with, if anything is finished."""
    try:
        with held(out) as partial:
            try:
                yield partial
            except BaseException:
                if not any(partial.rglob("*.safetensors")):
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            (partial / _MODEL).rename(out)
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        left = ("make room, and the same command continues with what is finished, or" if partial_of(out).exists()
                else "nothing is left of it; make room or")
        raise ConfigError(f"{error.filename or out}: cannot be written ({error.strerror}); {left} give another place"
                          ) from None


def empty_model(partial: Path) -> Path:
    """The empty folder in `partial` for the whole model. Raises OSError."""
    folder = partial / _MODEL
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def rounded(plan: Plan, name: str) -> dict[str, Tensor]:
    """What is stored of the parent's tensor called `name`: itself, or codes of it by rounding to nearest.

    Raises ModelError for numbers that codes cannot stand for.
    """
    dense, new = plan.checkpoint.stored(name), plan.names[name]
    if (scheme := plan.schemes.get(new)) is None:
        return {new: dense}
    check_codable(plan.checkpoint.folder, {name: tuple(dense.shape)}, dense, scheme)
    return {stored_name(new, end): tensor for end, tensor in encode(packer(scheme).pack(dense), scheme).items()}
