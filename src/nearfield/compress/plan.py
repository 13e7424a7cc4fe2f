"""What a quantised folder will hold, decided and checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nearfield.compress.parent import Shape, read_parent
from nearfield.core.errors import ConfigError
from nearfield.formats.base import WeightFormat
from nearfield.formats.checkpoint import Checkpoint, Entry
from nearfield.formats.compressed import encoded
from nearfield.formats.groups import GROUPS
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.formats.manifest import Scheme
from nearfield.models.spec import Config, ModelSpec


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
    """What the model in the folder `source` becomes.

    Raises ModelError for a model that cannot be quantised, ConfigError where it cannot be cut into such groups.
    """
    parent = read_parent(source)
    for name, shape in parent.linears.items():
        _check_groups(source, name, shape, target)
    return Plan(parent.checkpoint, parent.config, parent.spec, target, parent.names, parent.linears)


def stored_name(name: str, end: str) -> str:
    """The name of one of the tensors that store a linear layer's matrix."""
    return f"{name.removesuffix('.weight')}.{end}"


def _check_groups(source: Path, name: str, shape: Shape, target: Target) -> None:
    rows, columns = shape
    fitting = [str(group) for group in GROUPS if columns % group == 0]
    if not fitting:
        raise ConfigError(f"{source}: {name} is {rows} x {columns}; codes are multiplied in groups of at "
                          f"least {min(GROUPS)} columns, so this model cannot be quantised; serve it as it is")
    if target.format == "w4" and columns % target.group:
        raise ConfigError(f"{source}: {name} is {rows} x {columns}, which cannot be cut into groups of "
                          f"{target.group} columns; give --group {' or '.join(fitting)}, or --format w8")
