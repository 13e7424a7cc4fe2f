"""Writing a quantised folder by a method that looks at text: GPTQ, AWQ, or the better of all.

Layer by layer (passes.py), the folder made of the finished layers at the end. A run that was killed is continued by
the same command, to the same bits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.compress.device import computing_on, open_device
from nearfield.compress.finite import check_codable
from nearfield.compress.fit import Fit, check_fits, fit_plan
from nearfield.compress.folder import Progress, rounded, write_model
from nearfield.compress.journal import Journal
from nearfield.compress.passes import run_pass, told
from nearfield.compress.place import check_out, check_space, empty_model, made_in_steps
from nearfield.compress.plan import Plan, Target, make_plan, open_plan, packer, stored_name
from nearfield.compress.quantize.choose import Method, quantise
from nearfield.compress.report import REPORT, add_section, run_facts
from nearfield.compress.text import read_text, text_facts
from nearfield.compress.walk import Site, sites
from nearfield.formats.compressed import encode, split
from nearfield.formats.shards import SHARD_BYTES
from nearfield.models.tokenizer import load_tokenizer

CHUNKS, LENGTH = 64, 512
"""Text that is looked at: GPTQ's own quarter of it is too little for the widest inputs of small models."""

LEAST = 8
"""Chunks below which a Gram matrix says more about the text than about the model."""


@dataclass(frozen=True)
class Fact:
    """What was made of a site: `error` is the mean squared error of its output over the output's mean square."""

    matrices: tuple[str, ...]
    stored: str
    method: str
    error: float


def quantize_calibrated(source: Path, out: Path, target: Target | Fit, method: Method, texts: Sequence[Path], *,
                        device: str = "cpu", shard_bytes: int = SHARD_BYTES,
                        progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source` to the new folder `out`, by `method` on the files `texts`.

    device: "cpu" or "cuda", of the computation. `progress`: sites (four a layer) done, and all, of each pass.
    Raises ModelError for a model that cannot be quantised so, ConfigError for texts that are too short, for a size
    that nothing fits, or where `out` cannot be written; finished layers are kept beside it.
    """
    check_out(out, source, *texts)
    place = open_device(device)
    plan = make_plan(source, target) if isinstance(target, Target) else open_plan(source, target.profile)
    if isinstance(target, Fit):
        check_fits(plan, target, shard_bytes)
    tokenizer = load_tokenizer(source)
    text = read_text(texts, tokenizer, CHUNKS, min(LENGTH, plan.spec.max_positions), LEAST)
    recipe = {**target.recipe, "method": method, "chunks": len(text.chunks), "chunk": text.chunks.shape[1]}
    facts = {**run_facts(plan, recipe), "device": device}
    run = {"command": "quantize", **facts, "threads": torch.get_num_threads(),
           "text": hashlib.sha256(text.chunks.numpy().data).hexdigest()}
    with computing_on(place), made_in_steps(out, run) as partial:
        if isinstance(target, Fit):
            measured = Journal(partial / "measured")
            plan = fit_plan(plan, target, method, text.chunks, measured, place, shard_bytes, progress)
            facts |= {"bytes": run_facts(plan, {})["bytes"]}
        whole = empty_model(partial)
        check_space(partial, sum(entry.nbytes for entry in plan.entries().values()))
        journal = Journal(partial / "layers")
        run_pass(plan, text.chunks, journal, lambda states: _Layer(plan, method), place, progress)
        write_model(plan, whole, _Layers(plan, journal), shard_bytes)
        add_section(whole / REPORT, "quantize", {
            **facts, "calibration": text_facts(text, tokenizer), **told(journal, plan.spec.num_layers)})


class _Layer:
    """The work (passes.Work) that makes codes of a layer's matrices, and keeps them."""

    def __init__(self, plan: Plan, method: Method) -> None:
        self._plan, self._method = plan, method
        self.tensors: dict[str, Tensor] = {}
        self.facts: list[Any] = []

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        scheme = self._plan.schemes[next(iter(site.parts))]
        check_codable(self._plan.checkpoint.folder, site.parts, dense, scheme)
        form = packer(scheme)
        made = quantise(self._method, form, dense, norm, gram)
        for name, part in split(made.packed, site.parts).items():
            self.tensors |= {stored_name(name, end): tensor.cpu() for end, tensor in encode(part, scheme).items()}
        if site.norm is not None and made.norm is not norm and made.norm is not None:
            self.tensors[site.norm] = made.norm.to("cpu", self._plan.checkpoint.entry(site.norm).dtype)
        self.facts.append(asdict(Fact(tuple(site.parts), str(scheme), made.method, made.error)))
        return form.unpack(made.packed), made.norm


class _Layers:
    """What is to be written of each tensor of the parent: what the journal has of it, or by the plan alone."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self._plan, self._journal = plan, journal
        self._held: tuple[int, dict[str, Tensor]] = -1, {}
        self._layer = {name: site.layer for places in sites(plan.spec) for site in places
                       for name in (*site.parts, site.norm)}

    def __call__(self, name: str) -> dict[str, Tensor]:
        if (layer := self._layer.get(name)) is None:
            return rounded(self._plan, name)
        made = self._read(layer)
        if name in self._plan.schemes:
            prefix = stored_name(name, "")
            return {stored: tensor for stored, tensor in made.items() if stored.startswith(prefix)}
        return {name: made.get(name, self._plan.checkpoint.stored(name))}

    def _read(self, layer: int) -> dict[str, Tensor]:
        if self._held[0] != layer:
            self._held = layer, self._journal.layer(layer)
        return self._held[1]
