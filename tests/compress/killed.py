"""Runs that are killed on their way, by themselves: each is done in a process of its own (tests/forked.py)."""

import os
import signal
from pathlib import Path

import torch

from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.compose import compress_folder
from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.lesson import Standing
from nearfield.compress.distill.plan import DistillOptions
from nearfield.compress.fit import Fit
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import Target
from nearfield.compress.prune.folder import prune_folder
from nearfield.compress.prune.options import PruneOptions
from nearfield.compress.recipe import read_recipe
from nearfield.compress.stages import KINDS


def die() -> None:
    """At once, with nothing put in order."""
    os.kill(os.getpid(), signal.SIGKILL)


def quantizing(parent: Path, out: Path, target: Target, at: int) -> None:
    """Killed as `at` matrices are done."""
    quantize_folder(parent, out, target, progress=lambda done, total: die() if done == at else None)


def calibrating(parent: Path, out: Path, target: Target | Fit, text: Path, calls: int, threads: int) -> None:
    """Killed as it tells its progress for the `calls`th time."""
    torch.set_num_threads(threads)
    told = iter(range(1, calls))

    def tell(done: int, total: int) -> None:
        if next(told, None) is None:
            die()

    quantize_calibrated(parent, out, target, "gptq", [text], progress=tell)


def pruning(parent: Path, out: Path, options: PruneOptions, text: Path, at: int, threads: int) -> None:
    """Killed as `at` steps are done."""
    torch.set_num_threads(threads)
    prune_folder(parent, out, options, [text], progress=lambda done, total: die() if done == at else None)


def distilling(student: Path, teacher: Path, out: Path, options: DistillOptions, text: Path, stage: str, at: int,
               threads: int) -> None:
    """Killed in `stage`, when `at` tokens of it are done."""
    torch.set_num_threads(threads)

    def tell(standing: Standing) -> None:
        if standing.stage == stage and standing.done >= at:
            die()

    distill_folder(student, teacher, out, options, [text], progress=tell)


def compressing(parent: Path, out: Path, recipe: Path, text: Path, stage: int, threads: int) -> None:
    """Killed as stage number `stage` tells its progress for the third time."""
    torch.set_num_threads(threads)
    told = iter(range(2))

    def tell(number: int, done: int, total: int) -> None:
        if number == stage and next(told, None) is None:
            die()

    compress_folder(parent, out, read_recipe(recipe, KINDS, [text]), progress=tell)
