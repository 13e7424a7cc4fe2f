"""What a quantised folder will hold, decided and checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.base import WeightFormat
from nearfield.formats.checkpoint import Checkpoint, Entry
from nearfield.formats.compressed import encoded
from nearfield.formats.groups import GROUPS
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.formats.manifest import Scheme, read_manifest
from nearfield.models.inventory import EMBED, HEAD, take_inventory
from nearfield.models.loader import is_redundant
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec

Shape = tuple[int, int]


@dataclass(frozen=True)
class Target:
    """The format to write: "w8" (int8, a scale a row) or "w4" (int4, a scale for each `group` columns)."""

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


@dataclass(frozen=True)
class Plan:
    """The tensors to write: `names` as they are called and as they will be, of which `linears` become codes."""

    checkpoint: Checkpoint
    config: Config
    spec: ModelSpec
    target: Target
    names: Mapping[str, str]
    linears: Mapping[str, Shape]

    def entries(self) -> dict[str, Entry]:
        """Every tensor that will be written."""
        found: dict[str, Entry] = {}
        for name, new in self.names.items():
            if name in self.linears:
                found |= {stored_name(name, end): coded
                          for end, coded in encoded(self.target.scheme, *self.linears[name]).items()}
            else:
                found[new] = self.checkpoint.entry(name)
        return found


def make_plan(source: Path, target: Target) -> Plan:
    """Every tensor of the checkpoint has its place in the model, and every place its tensor, or it is an error.

    Raises ModelError for a model that cannot be quantised, ConfigError where it cannot be cut into such groups.
    """
    config = Config.load(source / "config.json")
    if (manifest := read_manifest(config.data, config.path)) is not None:
        raise ModelError(f"{source}: is quantised already, as {manifest}; give the folder that it was made of")
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
        raise ModelError(f"{source}: {len(strange)} tensors have no place in a {spec.model_type} model of this config, "
                         f"the first {strange[0]}")
    for name in kept:
        if name in linears:
            _check_linear(checkpoint, name, linears[name], target)
    return Plan(checkpoint, config, spec, target, kept, linears)


def stored_name(name: str, end: str) -> str:
    """The name of one of the tensors that store a linear layer's matrix."""
    return f"{name.removesuffix('.weight')}.{end}"


def _check_linear(checkpoint: Checkpoint, name: str, shape: Shape, target: Target) -> None:
    rows, columns = shape
    entry = checkpoint.entry(name)
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
