"""What could be taken from a model, and what it would cost: figures on calibration text, and no model written.

Single weights by magnitude or by Wanda (Sun et al. 2023, arXiv 2306.11695: |w| times the root mean square of its
input), half of each row or two of every four; and what pruning does take: layers, heads, channels. All are told as the
mean squared error of an output over its mean square, by the Gram matrix, of each matrix by itself in the whole model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nearfield.compress.device import computing_on, open_device
from nearfield.compress.finite import check_finite, overflowing
from nearfield.compress.folder import Progress
from nearfield.compress.gram import output_error
from nearfield.compress.parent import Parent, read_parent
from nearfield.compress.prune.folder import CHUNKS, LEAST, LENGTH
from nearfield.compress.prune.width import cut
from nearfield.compress.report import versions
from nearfield.compress.stream import embedded, read_layer
from nearfield.compress.text import read_text
from nearfield.compress.walk import Site, Walk, sites
from nearfield.kernels import select
from nearfield.models.tokenizer import load_tokenizer

SHARE = 0.8
"""The channels of an MLP that stay in what is told of its width."""


def analyze(source: Path, texts: Sequence[Path], *, device: str = "cpu",
            progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """The document that `nearfield analyze --json` prints. device: "cpu" or "cuda", of the computation. `progress`:
    layers done, and all.

    Raises ModelError for a model that cannot be read, is stored as codes or makes numbers that are not finite,
    ConfigError for text that is too short.
    """
    place = open_device(device)
    parent = read_parent(source)
    text = read_text(texts, load_tokenizer(source), CHUNKS, min(LENGTH, parent.spec.max_positions), LEAST)
    with computing_on(place):
        layers = _layers(parent, text.chunks, place, progress)
    return {"kind": "analysis", "model": source.resolve().name, "tokens": text.chunks.numel(), "layers": layers,
            "device": device, "text": {"sha256": dict(text.hashes)}, "versions": versions()}


def _layers(parent: Parent, chunks: Tensor, device: torch.device, progress: Progress) -> list[dict[str, Any]]:
    """What is told of each layer."""
    ops, places = select.plain("fp32"), sites(parent.spec)
    walk, layers = Walk(parent.spec, ops, chunks.shape[1]), []
    states = embedded(parent, chunks).to(device)
    for i, here in enumerate(places):
        progress(i, len(places))
        before, look = states.clone(), _Look(parent, here)
        walk.layer(read_layer(parent, ops, i, device), here, states, look)
        if not bool(states.isfinite().all()):
            raise overflowing(parent.checkpoint.folder, i)
        similar = functional.cosine_similarity(before, states, dim=-1).double().mean()
        layers.append({"layer": i, "influence": _short(1 - float(similar)), **look.widths, "matrices": look.matrices})
    progress(len(places), len(places))
    return layers


def half_of_row(scores: Tensor) -> Tensor:
    """Which of scores [N, K] are in the larger half of their row."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    return kept.scatter_(1, scores.topk(scores.shape[1] - scores.shape[1] // 2).indices, True)


def two_of_four(scores: Tensor) -> Tensor:
    """Which of scores [N, K] are among the two larger of their four, K divisible by 4."""
    fours = scores.view(len(scores), -1, 4)
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(2, fours.topk(2).indices, True).view_as(scores)


@dataclass
class _Look:
    """The change (walk.Change) that changes nothing, and notes what changes would cost."""

    parent: Parent
    places: Sequence[Site]
    widths: dict[str, Any] = field(default_factory=dict)
    matrices: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        spec = self.parent.spec
        check_finite(self.parent.checkpoint.folder, site.parts, dense, "analysed")
        wanda = dense.abs() * gram.diagonal().sqrt().float()
        kept = {"magnitude": half_of_row(dense.abs()), "wanda": half_of_row(wanda)}
        if dense.shape[1] % 4 == 0:
            kept["wanda_2_of_4"] = two_of_four(wanda)
        self.matrices.append({"of": list(site.parts), **{
            name: _short(output_error(dense * mask, dense, gram)) for name, mask in kept.items()}})
        if site is self.places[1] and spec.num_kv_heads > 1:
            unit = spec.num_heads // spec.num_kv_heads * spec.head_dim
            self.widths["one_kv_head_fewer"] = _short(cut(dense, gram, unit, spec.num_kv_heads - 1).error)
        if site is self.places[3]:
            keep = max(1, round(SHARE * spec.intermediate_size))
            self.widths["ffn_80"] = _short(cut(dense, gram, 1, keep).error)
        return dense, norm


def _short(value: float) -> float:
    return float(f"{value:.5g}")
