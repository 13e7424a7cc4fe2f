"""The model that another is made of: its folder, read and checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nearfield.core.errors import ModelError
from nearfield.formats.checkpoint import Checkpoint
from nearfield.formats.manifest import read_manifest
from nearfield.models.gguf_folder import origin
from nearfield.models.inventory import EMBED, HEAD, take_inventory
from nearfield.models.loader import is_redundant, no_place
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec

Shape = tuple[int, int]


@dataclass(frozen=True)
class Parent:
    """A dense model. names: each tensor that it needs, as the folder calls it, and as every reader looks for it;
    linears: the layers' matrices [out, in]."""

    checkpoint: Checkpoint
    config: Config
    spec: ModelSpec
    names: Mapping[str, str]
    linears: Mapping[str, Shape]


def read_parent(source: Path) -> Parent:
    """Every tensor of the checkpoint has its place in the model, and every place its tensor, or it is an error.

    Raises ModelError for that, and for a model that is stored as codes.
    """
    config = Config.load(source / "config.json")
    if (manifest := read_manifest(config.data, config.path)) is not None:
        raise ModelError(f"{origin(source)}: is quantised already, as {manifest}; give the folder that it was made of, "
                         "or make it dense first: nearfield unpack")
    spec = read_spec(config)
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
        raise ModelError(no_place(source, spec, strange))
    for name, shape in linears.items():
        entry = checkpoint.entry(name)
        if entry.shape != shape or not entry.dtype.is_floating_point:
            raise ModelError(f"{source}: tensor {name} is {list(entry.shape)} {entry.dtype}, config.json makes it "
                             f"{list(shape)} in floating point")
    return Parent(checkpoint, config, spec, kept, linears)
