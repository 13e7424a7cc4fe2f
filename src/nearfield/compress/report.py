"""report.json: what was done to a model, beside its weights. Each command writes a section of its own."""

import hashlib
import itertools
import json
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nearfield.compress.plan import Plan
from nearfield.formats.checkpoint import Checkpoint

REPORT = "report.json"
FIDELITY = "fidelity"
"""The section of measurements: of a folder as it is, so it does not pass on to what is made of it."""


def run_facts(plan: Plan, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the codes, and what they will take: recipe, the parent's files, versions, bytes."""
    entries = plan.entries().values()
    return {
        "recipe": recipe,
        "parent": parent_facts(plan.checkpoint),
        "versions": versions(),
        "bytes": {"before": sum(plan.checkpoint.entry(name).nbytes for name in plan.names),
                  "after": sum(entry.nbytes for entry in entries)}}


def parent_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What something is made of: the folder's name, the hashes of config.json and of the weights."""
    files = (checkpoint.folder / "config.json", *checkpoint.files())
    return {"name": checkpoint.folder.resolve().name, "sha256": {path.name: digest(path) for path in files}}


def versions() -> dict[str, str]:
    """What computed."""
    return {"nearfield": version("nearfield"), "torch": torch.__version__, "python": platform.python_version()}


def read_report(path: Path) -> dict[str, Any]:
    """The sections of a report; empty where there is none, or what is there is another's."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def add_section(path: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Write a section into the report at `path`; others stay, save measurements, which were of the parent.

    One of the same name that tells of text stays under a number ("quantize-1"): the model was made by that text too,
    and is not to be measured on it.
    """
    kept = {section: held for section, held in read_report(path).items() if section != FIDELITY}
    if any(passages_in(kept.get(name))):
        number = next(i for i in itertools.count(1) if f"{name}-{i}" not in kept)
        kept[f"{name}-{number}"] = kept.pop(name)
    write_whole(path, json.dumps({**kept, name: facts}, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file that is the old one until it is the whole new one, whoever else writes it. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        unfinished.write_text(text, "utf-8")
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def passages_in(section: Any) -> Iterator[Any]:
    """The passages (text.py) of each text that a section tells of."""
    for told in section.values() if isinstance(section, dict) else ():
        if isinstance(told, dict) and "passages" in told:
            yield told["passages"]


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
