"""Pruning: a model with fewer layers, narrower MLPs or fewer heads becomes a folder of its own, plain and dense.

First whole layers go (depth.py), then what is left is walked through (walk.py) and each layer loses heads and
channels (width.py) as its inputs are by then. What is finished is on disk at once (journal.py): the same command
continues where it was killed, to the same bits.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.compress.dense_folder import write_dense
from nearfield.compress.device import computing_on, open_device
from nearfield.compress.folder import Progress
from nearfield.compress.journal import Journal
from nearfield.compress.parent import Parent, read_parent
from nearfield.compress.place import check_out, check_space, empty_model, made_in_steps
from nearfield.compress.prune.depth import CHECKED, Choice, Passes, next_choice, told
from nearfield.compress.prune.layer import LayerCut, PrunedTensors, pruned_entries
from nearfield.compress.prune.options import PruneOptions, Sizes, sizes
from nearfield.compress.report import REPORT, add_section, parent_facts, versions
from nearfield.compress.stream import embedded, read_layer
from nearfield.compress.text import read_text, text_facts
from nearfield.compress.walk import Walk, sites
from nearfield.formats.shards import SHARD_BYTES
from nearfield.kernels import select
from nearfield.models.reshape import smaller_config
from nearfield.models.tokenizer import load_tokenizer

CHUNKS, LENGTH, LEAST = 64, 512, 8
"""Text that is looked at, in chunks, and chunks below which it says more about the text than about the model."""


def prune_folder(source: Path, out: Path, options: PruneOptions, texts: Sequence[Path], *,
                 device: str = "cpu", shard_bytes: int = SHARD_BYTES,
                 progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source`, pruned by what the files `texts` show of it, to the new folder `out`.

    device: "cpu" or "cuda", of the computation. `progress`: layers passed through, and all. Raises ModelError for a
    model that cannot be pruned, ConfigError for options that leave nothing, texts that are too short, or where `out`
    cannot be written; what was finished is kept.
    """
    options.check(bool(texts))
    check_out(out, source, *texts)
    place = open_device(device)
    parent = read_parent(source)
    wanted = sizes(parent.spec, options)
    # Refused before anything is computed: which layers go does not matter to it.
    any_config = smaller_config(parent.config, range(wanted.layers), wanted.inner, wanted.kv_heads)
    nbytes = sum(entry.nbytes for entry in pruned_entries(parent, any_config, range(wanted.layers)).values())
    tokenizer = load_tokenizer(source)
    text = read_text(texts, tokenizer, CHUNKS, min(LENGTH, parent.spec.max_positions), LEAST)
    facts = {"recipe": asdict(options), "parent": parent_facts(parent.checkpoint), "versions": versions(),
             "device": device}
    run = {"command": "prune", **facts, "threads": torch.get_num_threads(),
           "text": hashlib.sha256(text.chunks.numpy().data).hexdigest()}
    counted = _Counted(parent, wanted, progress)
    with computing_on(place), made_in_steps(out, run) as partial:
        whole = empty_model(partial)
        check_space(partial, nbytes)
        layers, depth = _choose_layers(parent, wanted, text.chunks, place, partial / "depth", counted)
        journal = Journal(partial / "width")
        if counted.walks:
            _cut_layers(parent, wanted, layers, options.compensate, text.chunks, place, journal, counted)
        spent = [journal.facts(i) for i in range(journal.done)]
        config = smaller_config(parent.config, layers, wanted.inner, wanted.kv_heads)
        made = PrunedTensors(parent, config, layers, journal)
        write_dense(source, whole, config, made.entries(), made, shard_bytes=shard_bytes)
        add_section(whole / REPORT, "prune", {
            **facts, "calibration": text_facts(text, tokenizer), **_shapes(parent, wanted), "layers": depth,
            "width": [{"layer": i, **each["cuts"]} for i, each in zip(layers, spent, strict=False)],
            "bytes": {"before": sum(parent.checkpoint.entry(name).nbytes for name in parent.names),
                      "after": sum(entry.nbytes for entry in made.entries().values())},
            "seconds": round(depth.pop("seconds") + sum(each["seconds"] for each in spent), 1)})


class _Counted:
    """Layers passed through, told one by one."""

    def __init__(self, parent: Parent, wanted: Sizes, progress: Progress) -> None:
        spec = parent.spec
        gone = spec.num_layers - wanted.layers
        self.walks = wanted.inner != spec.intermediate_size or wanted.kv_heads != spec.num_kv_heads
        self._passes = (1 + min(gone, CHECKED)) if gone else 0
        self._size, self._progress = spec.num_layers, progress
        self._total = self._passes * self._size + (wanted.layers if self.walks else 0)
        self._steps = itertools.count(1)
        progress(0, self._total)

    def at_pass(self, number: int) -> Callable[[], None]:
        """What to call after each layer of pass `number`."""
        self._steps = itertools.count(number * self._size + 1)
        return self.layer_done

    def at_walk(self, layer: int) -> None:
        """The walk stands before `layer`."""
        self._steps = itertools.count(self._passes * self._size + layer + 1)
        self._progress(self._passes * self._size + layer, self._total)

    def layer_done(self) -> None:
        self._progress(next(self._steps), self._total)


def _choose_layers(parent: Parent, wanted: Sizes, chunks: Tensor, device: torch.device, folder: Path,
                   counted: _Counted) -> tuple[list[int], dict[str, Any]]:
    """The layers that stay, and why the others go. The journal has the ranks first, then each choice."""
    count = parent.spec.num_layers - wanted.layers
    if not count:
        return list(range(wanted.layers)), {"dropped": [], "seconds": 0.0}
    journal, nothing = Journal(folder), torch.zeros(0)

    def note(fact: dict[str, Any], start: float) -> None:
        journal.add(journal.done, {}, {**fact, "seconds": time.monotonic() - start}, nothing)

    if not journal.done:
        start = time.monotonic()
        note({"influences": Passes(parent, chunks, device, counted.at_pass(0)).influences()}, start)
    influences = journal.facts(0)["influences"]
    choices = [_choice(journal.facts(i)) for i in range(1, journal.done)]
    while len(gone := frozenset(i for choice in choices for i in choice.layers)) < count:
        start, measured = time.monotonic(), sum(bool(choice.kl) for choice in choices)
        passes = Passes(parent, chunks, device, counted.at_pass(1 + measured))
        choices.append(next_choice(passes, influences, gone, count))
        note({"layers": choices[-1].layers, "kl": choices[-1].kl}, start)
    seconds = sum(journal.facts(i)["seconds"] for i in range(journal.done))
    return ([i for i in range(parent.spec.num_layers) if i not in gone],
            {**told(influences, choices), "seconds": seconds})


def _choice(fact: dict[str, Any]) -> Choice:
    return Choice(tuple(fact["layers"]), {int(i): kl for i, kl in fact["kl"].items()})


def _cut_layers(parent: Parent, wanted: Sizes, layers: Sequence[int], compensate: bool, chunks: Tensor,
                device: torch.device, journal: Journal, counted: _Counted) -> None:
    """Walk through the layers that stay, each narrower on the way; the journal has what is made of each."""
    ops = select.plain("fp32")
    walk, places = Walk(parent.spec, ops, chunks.shape[1]), sites(parent.spec)
    states = (journal.states() if journal.done else embedded(parent, chunks)).to(device)
    for i in range(journal.done, len(layers)):
        counted.at_walk(i)
        start = time.monotonic()
        cut = LayerCut(parent, wanted, places[layers[i]], compensate)
        walk.layer(read_layer(parent, ops, layers[i], device), places[layers[i]], states, cut)
        journal.add(i, cut.tensors, {"cuts": cut.facts, "seconds": time.monotonic() - start}, states)
        counted.layer_done()


def _shapes(parent: Parent, wanted: Sizes) -> dict[str, Any]:
    spec = parent.spec
    return {"before": asdict(Sizes(spec.num_layers, spec.intermediate_size, spec.num_kv_heads)),
            "after": asdict(wanted)}
