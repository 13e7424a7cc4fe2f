"""Writing a model again with its matrices as codes: a standard folder (compressed-tensors) from a dense one.

One tensor is in memory at a time. The folder is written under a temporary name beside its own and renamed
when it is whole, so that there is never half a model. Embeddings, head and norms stay as they are:
vLLM reads them dense only, and here the first two become int8 at load.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nearfield.core.config import format_bytes
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.base import WeightFormat
from nearfield.formats.checkpoint import PICKLES, Checkpoint, Entry
from nearfield.formats.compressed import encode, encoded
from nearfield.formats.groups import GROUPS
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.formats.manifest import Scheme, quantization_config, read_manifest
from nearfield.formats.shards import SHARD_BYTES, ShardWriter
from nearfield.models.inventory import EMBED, HEAD, take_inventory
from nearfield.models.loader import is_redundant
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec

Shape = tuple[int, int]
Progress = Callable[[int, int], None]
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin.index.json", ".gguf", ".onnx", ".h5", ".msgpack", *PICKLES)


@dataclass(frozen=True)
class Target:
    """The format to write: "w8" (int8, a scale a row) or "w4" (int4, a scale for each `group` columns).

    Weights are rounded to nearest, each scale searched for the least squared error (reference/rounding.py).
    """

    format: str
    group: int = 64

    @property
    def packer(self) -> WeightFormat:
        """What makes the codes. Raises ConfigError for a group that no kernel knows."""
        return Int8() if self.format == "w8" else Int4(self.group)

    @property
    def scheme(self) -> Scheme:
        """How they are stored."""
        return Scheme(8, None) if self.format == "w8" else Scheme(4, self.group, packed=True)


def quantize_folder(source: Path, out: Path, target: Target, *, shard_bytes: int = SHARD_BYTES,
                    progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source` to the new folder `out`. `progress`: tensors done, and all.

    Raises ModelError for a model that cannot be quantised so, ConfigError where `out` cannot be written.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; give a new folder, or remove it first")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out.absolute().parent}: no such folder; make it first")
    config = Config.load(source / "config.json")
    if (manifest := read_manifest(config.data, config.path)) is not None:
        raise ModelError(f"{source}: is quantised already, as {manifest}; give the folder that it was made of")
    work = _plan(source, read_spec(config), target)
    entries = work.entries()
    described = {**config.data, "quantization_config": quantization_config(target.scheme)}
    with _made_whole(out) as folder:
        _check_space(folder, sum(entry.nbytes for entry in entries.values()))
        with ShardWriter(folder, entries, shard_bytes) as writer:
            work.write(writer, progress)
        _copy_rest(source, folder)
        (folder / "config.json").write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", "utf-8")


@dataclass(frozen=True)
class _Work:
    """The tensors to write: `names` as they are called and as they will be, of which `linears` become codes."""

    checkpoint: Checkpoint
    target: Target
    packer: WeightFormat
    names: Mapping[str, str]
    linears: Mapping[str, Shape]

    def entries(self) -> dict[str, Entry]:
        """Every tensor that will be written."""
        found: dict[str, Entry] = {}
        for name, new in self.names.items():
            entry = self.checkpoint.entry(name)
            if name not in self.linears:
                found[new] = entry
                continue
            _check_linear(self.checkpoint, name, entry, self.linears[name], self.target)
            for end, coded in encoded(self.target.scheme, *self.linears[name]).items():
                found[_stored_name(name, end)] = coded
        return found

    def write(self, writer: ShardWriter, progress: Progress) -> None:
        for done, (name, new) in enumerate(self.names.items()):
            progress(done, len(self.names))
            dense = self.checkpoint.stored(name)
            if name in self.linears:
                if not bool(dense.isfinite().all()):
                    raise ModelError(f"{self.checkpoint.folder}: tensor {name} holds a number that is not finite; "
                                     "such a model cannot be quantised")
                for end, tensor in encode(self.packer.pack(dense)).items():
                    writer.write(_stored_name(name, end), tensor)
            else:
                writer.write(new, dense)
        progress(len(self.names), len(self.names))


def _plan(source: Path, spec: ModelSpec, target: Target) -> _Work:
    """Every tensor of the checkpoint has its place in the model, and every place its tensor, or it is an error."""
    found, checkpoint = take_inventory(spec), Checkpoint(source)
    linears = {name: shape for parts in found.linears for name, shape in parts.items()}
    wanted = found.vectors.keys() | found.tables.keys() | linears.keys()
    names = {name: name for name in checkpoint.names()}
    if spec.tie_embeddings and EMBED not in names and HEAD in names:
        names[HEAD] = EMBED                     # the one table, by the name that every reader looks for
    kept = {name: new for name, new in names.items() if new in wanted}
    if missing := wanted - set(kept.values()):
        raise ModelError(f"{source}: tensor {min(missing)} is missing; the checkpoint is not complete")
    if strange := [name for name in names if name not in kept and not is_redundant(name, tied=spec.tie_embeddings)]:
        raise ModelError(f"{source}: {len(strange)} tensors have no place in a {spec.model_type} model of this config, "
                         f"the first {strange[0]}")
    return _Work(checkpoint, target, target.packer, kept, linears)


def _check_linear(checkpoint: Checkpoint, name: str, entry: Entry, shape: Shape, target: Target) -> None:
    rows, columns = shape
    if entry.shape != shape or not entry.dtype.is_floating_point:
        raise ModelError(f"{checkpoint.folder}: tensor {name} is {list(entry.shape)} {entry.dtype}, config.json makes "
                         f"it {list(shape)} in floating point")
    fitting = [str(group) for group in GROUPS if columns % group == 0]
    if not fitting:
        raise ConfigError(f"{checkpoint.folder}: {name} is {rows} x {columns}; codes are multiplied in groups of at "
                          f"least {min(GROUPS)} columns, so this model cannot be quantised; serve it as it is")
    if target.format == "w4" and columns % target.group:
        raise ConfigError(f"{checkpoint.folder}: {name} is {rows} x {columns}, which cannot be cut into groups of "
                          f"{target.group} columns; give --group {' or '.join(fitting)}, or --format w8")


@contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends, and is removed when it fails."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)      # of a run that was killed
        partial.mkdir()
        yield partial
        partial.rename(out)
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: cannot be written ({error.strerror}); nothing is left of it; "
                          "make room or give another place") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_space(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise ConfigError(f"{folder.parent}: {format_bytes(nbytes)} are needed and {format_bytes(free)} free; "
                          "make room or give another place")


def _copy_rest(source: Path, folder: Path) -> None:
    """Tokenizer, templates, licence: all files but config.json and weights. Folders hold second copies of weights."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "config.json" and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, folder / path.name)


def _stored_name(name: str, end: str) -> str:
    return f"{name.removesuffix('.weight')}.{end}"
