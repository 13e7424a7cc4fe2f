"""Writing a quantised folder by a method that looks at text: GPTQ, AWQ, or the better of all.

Layer by layer (walk.py), each finished layer on disk at once (journal.py), the folder made of them at the end. A run
that was killed is continued by the same command, to the same bits: the hidden states are kept as they were.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.compress.folder import Progress, check_out, check_space, empty_model, made_in_steps, write_model
from nearfield.compress.journal import Journal
from nearfield.compress.plan import Plan, Target, make_plan, stored_name
from nearfield.compress.quantize.choose import Method, quantise
from nearfield.compress.report import REPORT, add_section, run_facts
from nearfield.compress.stream import embedded, read_layer
from nearfield.compress.text import Text, read_text, text_facts
from nearfield.compress.walk import Site, Walk, sites
from nearfield.core.errors import ModelError
from nearfield.formats.compressed import encode
from nearfield.formats.shards import SHARD_BYTES
from nearfield.kernels import select
from nearfield.kernels.ops import PackedWeight
from nearfield.models.tokenizer import load_tokenizer

CHUNKS, LENGTH = 64, 512
"""Text that is looked at: GPTQ's own quarter of it is too little for the widest inputs of small models."""

LEAST = 8
"""Chunks below which a Gram matrix says more about the text than about the model."""


@dataclass(frozen=True)
class Fact:
    """What was made of a site: `error` is the mean squared error of its output over the output's mean square."""

    matrices: tuple[str, ...]
    method: str
    error: float


def quantize_calibrated(source: Path, out: Path, target: Target, method: Method, texts: Sequence[Path], *,
                        shard_bytes: int = SHARD_BYTES, progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source` to the new folder `out`, by `method` on the files `texts`.

    `progress`: sites (four a layer) done, and all. Raises ModelError for a model that cannot be quantised so,
    ConfigError for texts that are too short, or where `out` cannot be written; finished layers are kept beside it.
    """
    check_out(out)
    plan = make_plan(source, target)
    tokenizer = load_tokenizer(source)
    text = read_text(texts, tokenizer, CHUNKS, min(LENGTH, plan.spec.max_positions), LEAST)
    facts = run_facts(plan, {"method": method, "chunks": len(text.chunks), "chunk": text.chunks.shape[1]})
    run = {**facts, "threads": torch.get_num_threads(), "text": hashlib.sha256(text.chunks.numpy().data).hexdigest()}
    with made_in_steps(out) as partial:
        journal = Journal(partial, run)
        _make_layers(plan, method, text, journal, progress)
        whole = empty_model(partial)
        check_space(partial, sum(entry.nbytes for entry in plan.entries().values()))
        write_model(plan, whole, _Layers(plan, journal), shard_bytes)
        add_section(whole / REPORT, "quantize", {
            **facts, "calibration": text_facts(text, tokenizer), **_told(journal, plan.spec.num_layers)})


def _make_layers(plan: Plan, method: Method, text: Text, journal: Journal, progress: Progress) -> None:
    spec, ops = plan.spec, select.plain("fp32")
    walk, places = Walk(spec, ops, text.chunks.shape[1]), sites(spec)
    total = 4 * spec.num_layers
    states = journal.states() if journal.done else embedded(plan, text.chunks)
    for i in range(journal.done, spec.num_layers):
        progress(4 * i, total)
        start = time.monotonic()
        work = _Layer(plan, method, lambda done, i=i: progress(4 * i + done, total))
        walk.layer(read_layer(plan, ops, i), places[i], states, work)
        facts = {"sites": [asdict(fact) for fact in work.facts], "seconds": time.monotonic() - start}
        journal.add(i, work.tensors, facts, states)
    progress(total, total)


class _Layer:
    """The change (walk.Change) that makes codes of a layer's matrices, and keeps them."""

    def __init__(self, plan: Plan, method: Method, progress: Any) -> None:
        self._plan, self._method, self._progress = plan, method, progress
        self.tensors: dict[str, Tensor] = {}
        self.facts: list[Fact] = []

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        if not bool(dense.isfinite().all()):
            raise ModelError(f"{self._plan.checkpoint.folder}: {site.label} holds a number that is not finite; such "
                             "a model cannot be quantised")
        packer = self._plan.target.packer
        made = quantise(self._method, packer, dense, norm, gram)
        for name, part in _split(made.packed, site.parts).items():
            self.tensors |= {stored_name(name, end): tensor for end, tensor in encode(part).items()}
        if site.norm is not None and made.norm is not norm and made.norm is not None:
            self.tensors[site.norm] = made.norm.to(self._plan.checkpoint.entry(site.norm).dtype)
        self.facts.append(Fact(tuple(site.parts), made.method, made.error))
        self._progress(len(self.facts))
        return packer.unpack(made.packed), made.norm


def _split(packed: PackedWeight, parts: Mapping[str, tuple[int, int]]) -> dict[str, PackedWeight]:
    """The matrices that lie one below the other in `packed`, by name."""
    found, first = {}, 0
    for name, shape in parts.items():
        rows = slice(first, first + shape[0])
        found[name] = PackedWeight(packed.format, shape, {end: held[rows] for end, held in packed.tensors.items()})
        first += shape[0]
    return found


class _Layers:
    """What is to be written of each tensor of the parent: what the journal has of it, or the tensor itself."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self._plan, self._journal = plan, journal
        self._held: tuple[int, dict[str, Tensor]] = -1, {}
        self._layer = {name: site.layer for places in sites(plan.spec) for site in places
                       for name in (*site.parts, site.norm)}

    def __call__(self, name: str) -> dict[str, Tensor]:
        made = {} if (layer := self._layer.get(name)) is None else self._read(layer)
        if name in self._plan.linears:
            prefix = stored_name(name, "")
            return {stored: tensor for stored, tensor in made.items() if stored.startswith(prefix)}
        return {self._plan.names[name]: made.get(name, self._plan.checkpoint.stored(name))}

    def _read(self, layer: int) -> dict[str, Tensor]:
        if self._held[0] != layer:
            self._held = layer, self._journal.layer(layer)
        return self._held[1]


def _told(journal: Journal, layers: int) -> dict[str, Any]:
    told = [journal.facts(i) for i in range(layers)]
    return {"seconds": round(sum(fact["seconds"] for fact in told), 1),
            "sites": [site for fact in told for site in fact["sites"]]}
