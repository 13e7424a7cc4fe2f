"""Mixed precision of a size: int8 for the matrices that need it most, int4 in larger or smaller groups for the others.

Matrices that share an input share a scheme, since vLLM multiplies by them as one. What a scheme costs is measured on
text: the error that the method leaves in a site's output, as a share of it, times how much the site's block moves the
hidden states. The sum is least among all ways that fit (knapsack.py); the choice is HIGGS's (arXiv 2411.17525), whose
shares are measured by noise and many more passes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.compress import knapsack
from nearfield.compress.folder import Progress
from nearfield.compress.gram import row_errors
from nearfield.compress.journal import Journal
from nearfield.compress.parent import Shape
from nearfield.compress.passes import run_pass, told
from nearfield.compress.plan import INT8, Plan, Profile, groups_of, int4, packer
from nearfield.compress.quantize.choose import Method, quantise
from nearfield.compress.walk import Site, sites
from nearfield.core.config import format_bytes
from nearfield.core.errors import ConfigError
from nearfield.formats.compressed import encoded
from nearfield.formats.manifest import Scheme
from nearfield.formats.shards import file_bytes

_ROWS = 512
"""Rows of a site's matrices that errors are measured on, evenly taken."""


@dataclass(frozen=True)
class Fit:
    """Bytes that the files of weights may have in all."""

    nbytes: int
    profile: Profile = "vllm"

    @property
    def recipe(self) -> dict[str, Any]:
        """For the report."""
        return {"fit": self.nbytes, "profile": self.profile}


def fit_plan(plan: Plan, target: Fit, method: Method, ids: Tensor, journal: Journal, device: torch.device,
             shard_bytes: int, progress: Progress) -> Plan:
    """The plan, with the schemes of least error for the layers' matrices that fit.

    Measured by `method` on ids [B, T]; `journal` keeps what is measured. Raises ConfigError, with the smallest size,
    where nothing fits.
    """
    places, smallest = _places(plan), check_fits(plan, target, shard_bytes)
    run_pass(plan, ids, journal, lambda states: _Measure(method, states), device, progress)
    costs = told(journal, plan.spec.num_layers)["sites"]
    things = [[(_site_bytes(site, scheme), cost) for scheme, cost in zip(schemes_of(site), found, strict=True)]
              for site, found in zip(places, costs, strict=True)]
    room = target.nbytes - smallest + sum(min(size for size, _ in choices) for choices in things)
    while (picks := knapsack.fit(things, room)) is not None:
        fitted = plan.coded(_alike(places, [schemes_of(site)[pick] for site, pick in zip(places, picks, strict=True)]))
        if (over := _bytes(fitted, shard_bytes) - target.nbytes) <= 0:
            return fitted
        room -= over        # the headers of files, which name and place each tensor, differ by some bytes
    raise ConfigError(_too_small(plan, target, smallest + 1))


def check_fits(plan: Plan, target: Fit, shard_bytes: int) -> int:
    """The bytes of the smallest files. Raises ConfigError, which tells them, where `target` is less."""
    places = _places(plan)
    smallest = _bytes(plan.coded(_alike(places, [schemes_of(site)[-1] for site in places])), shard_bytes)
    if smallest > target.nbytes:
        raise ConfigError(_too_small(plan, target, smallest))
    return smallest


def schemes_of(site: Site) -> list[Scheme]:
    """What a site's matrices may become, the largest first."""
    columns = next(iter(site.parts.values()))[1]
    return [INT8, *map(int4, groups_of(columns))]


def least_bytes(linears: Iterable[Shape], tables: Iterable[Shape], profile: Profile) -> int:
    """Bytes below which no choice of schemes for matrices of such shapes comes, the rest of the files left out."""
    codes = sum(min(sum(entry.nbytes for entry in encoded(scheme, *shape).values())
                    for scheme in (INT8, *map(int4, groups_of(shape[1])))) for shape in linears)
    return codes + sum(rows * columns for rows, columns in tables) * (1 if profile == "compact" else 2)


class _Measure:
    """The work (passes.Work) that measures what each scheme costs and changes nothing.

    A site's block is attention or the MLP: what it adds, beside the hidden states that it is added to, says how much an
    error in it counts. The median token tells the size of the states: a few tokens have huge ones in many models.
    """

    def __init__(self, method: Method, states: Tensor) -> None:
        self._method = method
        self.tensors: dict[str, Tensor] = {}
        self.facts: list[Any] = []
        self._size = float(states.square().sum(-1).median())

    def __call__(self, site: Site, dense: Tensor, norm: Tensor | None, gram: Tensor) -> tuple[Tensor, Tensor | None]:
        some = dense[::max(1, len(dense) // _ROWS)]
        self.facts.append([quantise(self._method, packer(scheme), some, norm, gram).error
                           for scheme in schemes_of(site)])
        if site.norm is None:       # the block ends here: this output is what it adds
            added = float(row_errors(dense, gram).sum())
            self._size += added
            self.facts[-2:] = [[cost * added / self._size for cost in found] for found in self.facts[-2:]]
        return dense, norm


def _places(plan: Plan) -> list[Site]:
    return [site for layer in sites(plan.spec) for site in layer]


def _alike(places: list[Site], schemes: list[Scheme]) -> dict[str, Scheme]:
    return {name: scheme for site, scheme in zip(places, schemes, strict=True) for name in site.parts}


def _site_bytes(site: Site, scheme: Scheme) -> int:
    return sum(entry.nbytes for shape in site.parts.values() for entry in encoded(scheme, *shape).values())


def _bytes(plan: Plan, shard_bytes: int) -> int:
    return file_bytes(plan.entries(), shard_bytes)


def _too_small(plan: Plan, target: Fit, smallest: int) -> str:
    folder: Path = plan.checkpoint.folder
    compact = "" if target.profile == "compact" else ", or --profile compact, which makes embeddings and head int8"
    return (f"{folder}: cannot be made to fit {_exactly(target.nbytes)}; the smallest "
            f"possible is {_exactly(smallest)}; give --fit {smallest}{compact}")


def _exactly(nbytes: int) -> str:
    """For people, and to the byte."""
    short = format_bytes(nbytes)
    return short if short == f"{nbytes} B" else f"{short} ({nbytes} bytes)"
