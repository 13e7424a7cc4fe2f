"""One layer on its way: what the walk changes in it, and what is then written of its tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nearfield.compress.finite import check_finite
from nearfield.compress.journal import Journal
from nearfield.compress.parent import Parent
from nearfield.compress.prune.options import Sizes
from nearfield.compress.prune.width import Cut, columns_of, cut
from nearfield.compress.walk import Site
from nearfield.formats.checkpoint import Entry
from nearfield.models.inventory import take_inventory
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config

_HEADS, _CHANNELS, _OUT, _DOWN = "heads", "channels", "out", "down"
"""What the journal has of a layer: numbers of the key/value heads and channels that stay, and the two matrices behind
them, as they will be stored."""


class LayerCut:
    """The change (walk.Change) that takes heads from the matrix behind attention, and channels from the one behind the
    gate. What goes becomes zero columns: to the layer that is the same as if rows before them were missing."""

    def __init__(self, parent: Parent, wanted: Sizes, places: Sequence[Site], compensate: bool) -> None:
        self._parent, self._wanted, self._compensate = parent, wanted, compensate
        _, self._out, _, self._down = places
        self.tensors: dict[str, Tensor] = {}
        self.facts: dict[str, Any] = {}

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        spec, wanted = self._parent.spec, self._wanted
        check_finite(self._parent.checkpoint.folder, site.parts, dense, "pruned")
        if site is self._out and wanted.kv_heads < spec.num_kv_heads:
            unit = spec.num_heads // spec.num_kv_heads * spec.head_dim
            made = cut(dense, gram, unit, wanted.kv_heads, compensate=self._compensate)
            return self._keep(site, made, _HEADS, _OUT, unit), norm
        if site is self._down and wanted.inner < spec.intermediate_size:
            made = cut(dense, gram, 1, wanted.inner, compensate=self._compensate)
            return self._keep(site, made, _CHANNELS, _DOWN, 1), norm
        return dense, norm

    def _keep(self, site: Site, made: Cut, units: str, matrix: str, unit: int) -> Tensor:
        """The matrix to go on with: what the stored one reads as."""
        (name,) = site.parts
        stored = made.dense.to(self._parent.checkpoint.entry(name).dtype)
        self.tensors |= {units: made.kept, matrix: stored[:, columns_of(made.kept, unit)]}
        self.facts[units] = {"error": _short(made.error), "error_uncompensated": _short(made.bare)}
        if units == _HEADS:
            self.facts[units]["kept"] = made.kept.tolist()
        return stored.float()


class PrunedTensors:
    """The tensors of the pruned model, by their new names: read from the parent, cut as the journal says."""

    def __init__(self, parent: Parent, config: Mapping[str, Any], layers: Sequence[int], journal: Journal) -> None:
        self._parent, self._layers, self._journal = parent, layers, journal
        self._entries = pruned_entries(parent, config, layers)
        self._old = {new: name for name, new in parent.names.items()}
        self._held: tuple[int, dict[str, Tensor]] = -1, {}

    def entries(self) -> dict[str, Entry]:
        """Every tensor, layer by layer."""
        return self._entries

    def __call__(self, name: str) -> Tensor:
        """One of them."""
        index, old = _source(name, self._layers)
        cuts = {} if index is None else self._cuts(index)
        *_, part, _ = name.split(".")
        if part == "o_proj" and name.endswith(".weight") and _OUT in cuts:
            return cuts[_OUT]
        if part == "down_proj" and name.endswith(".weight") and _DOWN in cuts:
            return cuts[_DOWN]
        tensor, spec = self._parent.checkpoint.stored(self._old[old]), self._parent.spec
        units = {"q_proj": (_HEADS, spec.num_heads // spec.num_kv_heads * spec.head_dim),
                 "k_proj": (_HEADS, spec.head_dim), "v_proj": (_HEADS, spec.head_dim),
                 "gate_proj": (_CHANNELS, 1), "up_proj": (_CHANNELS, 1)}
        if part in units and units[part][0] in cuts:
            kept, unit = units[part]
            return tensor[columns_of(cuts[kept], unit)]
        return tensor

    def _cuts(self, index: int) -> dict[str, Tensor]:
        if index >= self._journal.done:
            return {}                               # only whole layers went
        if self._held[0] != index:
            self._held = index, self._journal.layer(index)
        return self._held[1]


def pruned_entries(parent: Parent, config: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Entry]:
    """Every tensor of the pruned model, layer by layer: `config` is its config.json, `layers` are those that stay."""
    found = take_inventory(read_spec(Config(config, parent.config.path)))
    shapes: dict[str, tuple[int, ...]] = {**found.tables, **{name: (size,) for name, size in found.vectors.items()}}
    for parts in found.linears:
        shapes |= parts
    old = {new: name for name, new in parent.names.items()}
    dtypes = {name: parent.checkpoint.entry(old[_source(name, layers)[1]]).dtype for name in shapes}
    return {name: Entry(shapes[name], dtypes[name]) for name in sorted(shapes, key=_place)}


def _source(name: str, layers: Sequence[int]) -> tuple[int | None, str]:
    """The number of a tensor's layer, if it is of one, and its name in the parent."""
    index, rest = _layer(name)
    return (None, name) if index is None else (index, f"model.layers.{layers[index]}.{rest}")


def _place(name: str) -> int:
    index, _ = _layer(name)
    return -1 if index is None else index


def _layer(name: str) -> tuple[int | None, str]:
    """A tensor's layer, if it is of one, and what follows."""
    if not name.startswith("model.layers."):
        return None, name
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    return int(number), rest


def _short(value: float) -> float:
    return float(f"{value:.5g}")
