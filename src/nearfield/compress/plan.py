"""What a quantised folder will hold, decided and checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nearfield.compress.parent import Parent, Shape, read_parent
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.base import WeightFormat
from nearfield.formats.checkpoint import Entry
from nearfield.formats.compressed import encoded
from nearfield.formats.groups import GROUPS
from nearfield.formats.int4 import Int4
from nearfield.formats.int8 import Int8
from nearfield.formats.manifest import Scheme, quantization_config
from nearfield.models.inventory import take_inventory

Profile = Literal["vllm", "compact"]
PROFILES: tuple[Profile, ...] = ("vllm", "compact")
"""vllm: embeddings and head stay dense, as every version of vLLM reads them. compact: they are int8 too."""

INT8 = Scheme(8, None)
TABLE = Scheme(8, None, packed=True)
"""Of embeddings, which have no activations to round, and of a head: what readers of quantised embeddings know."""


@dataclass(frozen=True)
class Target:
    """The format to write: "w8" (int8, a scale a row) or "w4" (int4, a scale for each `group` columns)."""

    format: str
    group: int = 64
    profile: Profile = "vllm"

    @property
    def scheme(self) -> Scheme:
        """How the layers' matrices are stored."""
        return INT8 if self.format == "w8" else int4(self.group)

    @property
    def recipe(self) -> dict[str, Any]:
        """For the report."""
        group = {"group": self.group} if self.format == "w4" else {}
        return {"format": self.format, **group, "profile": self.profile}


@dataclass(frozen=True)
class Plan(Parent):
    """What to write of a parent: all its tensors, by their new names, of which those of `schemes` become codes.

    tables: the embeddings [V, D] and an untied head.
    """

    tables: Mapping[str, Shape]
    schemes: Mapping[str, Scheme]

    def entries(self) -> dict[str, Entry]:
        """Every tensor that will be written."""
        found: dict[str, Entry] = {}
        for name, new in self.names.items():
            if (scheme := self.schemes.get(new)) is None:
                found[new] = self.checkpoint.entry(name)
            else:
                shape = self.tables.get(new) or self.linears[new]
                found |= {stored_name(new, end): coded for end, coded in encoded(scheme, *shape).items()}
        return found

    def described(self) -> dict[str, Any]:
        """The config.json to write."""
        inner, tables = ({name.removesuffix(".weight"): self.schemes[name] for name in names if name in self.schemes}
                         for names in (self.linears, self.tables))
        return {**self.config.data, "quantization_config": quantization_config(inner, tables)}

    def coded(self, schemes: Mapping[str, Scheme]) -> "Plan":
        """The same with more matrices to be codes."""
        return replace(self, schemes={**self.schemes, **schemes})


def make_plan(source: Path, target: Target) -> Plan:
    """What the model in the folder `source` becomes.

    Raises ModelError for a model that cannot be quantised, ConfigError where it cannot be cut into such groups.
    """
    plan = open_plan(source, target.profile)
    check_groups(str(source), plan.linears, target)
    return plan.coded(dict.fromkeys(plan.linears, target.scheme))


def open_plan(source: Path, profile: Profile) -> Plan:
    """A plan that leaves open what the layers' matrices become. Raises as `make_plan`."""
    parent = read_parent(source)
    check_widths(str(source), parent.linears)
    tables = take_inventory(parent.spec).tables
    for name, new in parent.names.items():
        entry = parent.checkpoint.entry(name)
        if new in tables and (entry.shape != tables[new] or not entry.dtype.is_floating_point):
            raise ModelError(f"{source}: tensor {name} is {list(entry.shape)} {entry.dtype}, config.json makes it "
                             f"{list(tables[new])} in floating point")
    return Plan(**vars(parent), tables=tables, schemes=dict.fromkeys(tables, TABLE) if profile == "compact" else {})


def int4(group: int) -> Scheme:
    """int4 with a scale for each `group` columns."""
    return Scheme(4, group, packed=True)


def groups_of(columns: int) -> tuple[int, ...]:
    """The groups of columns that so many can be cut into."""
    return tuple(group for group in GROUPS if columns % group == 0)


def packer(scheme: Scheme) -> WeightFormat:
    """What makes the codes. Raises ConfigError for a group that no kernel knows."""
    return Int8() if scheme.group is None else Int4(scheme.group)


def stored_name(name: str, end: str) -> str:
    """The name of one of the tensors that store a linear layer's matrix."""
    return f"{name.removesuffix('.weight')}.{end}"


def check_widths(place: str, linears: Mapping[str, Shape]) -> None:
    """Raises ConfigError, with `place` in front, for a matrix that can be cut into no groups at all."""
    for name, (rows, columns) in linears.items():
        if not groups_of(columns):
            raise ConfigError(f"{place}: {name} is {rows} x {columns}; codes are multiplied in groups of at "
                              f"least {min(GROUPS)} columns, so this model cannot be quantised; serve it as it is")


def check_groups(place: str, linears: Mapping[str, Shape], target: Target) -> None:
    """Raises ConfigError, with `place` in front, for a matrix that cannot be cut into the groups of `target`."""
    for name, (rows, columns) in linears.items():
        if target.format == "w4" and columns % target.group:
            raise ConfigError(f"{place}: {name} is {rows} x {columns}, which cannot be cut into groups of "
                              f"{target.group} columns; give --group {' or '.join(map(str, groups_of(columns)))}, or "
                              "--format w8")
