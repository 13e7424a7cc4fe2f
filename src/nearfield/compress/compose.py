"""Making a model by a recipe: stage after stage, each a folder of its own beside the result until that is whole.

A folder's name has the hash of all that decided it: the model, the text, the options and the stages before. One that is
there is finished, so that the same command continues where it was killed, and so does another recipe up to where it
differs, once what the first finished after that is removed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nearfield.compress.device import open_device, other_device
from nearfield.compress.folder import other_files
from nearfield.compress.parent import read_parent
from nearfield.compress.place import check_out, claimed, clear, has_finished, partial_of
from nearfield.compress.recipe import Recipe, Stage
from nearfield.compress.report import REPORT, add_section, digest, parent_facts, read_report, versions
from nearfield.compress.stages import RUNS, Run, check_stage, passages_read, spelled
from nearfield.core.errors import ConfigError, NearfieldError
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from nearfield.models.tokenizer import load_tokenizer

Progress = Callable[[int, int, int], None]
"""The number of a stage, from 1, and of its steps those that are done, and all."""


def compress_folder(source: Path, out: Path, recipe: Recipe, *, device: str = "cpu",
                    runs: Mapping[str, Run] = RUNS, begin: Callable[[], object] = lambda: None,
                    finish: Callable[[Path], object] = lambda folder: None,
                    progress: Progress = lambda stage, done, total: None) -> None:
    """Write to the new folder `out` what `recipe` makes of the model in the folder `source`.

    device: "cpu" or "cuda", where stages compute. begin: is called before the first stage, when no other run can come
    between: for checks that take long. finish: is given the whole folder before it gets its name, to add to
    it what is measured. Raises ConfigError or ModelError, with the stage in front, as the stages do; what is finished
    is kept beside `out`.
    """
    check_out(out, source, *_files(recipe))
    open_device(device)
    model = read_parent(source)
    config = model.config
    for number, stage in enumerate(recipe.stages, 1):
        with _named(recipe, number):
            config = check_stage(stage, config, model.config, recipe.stages[:number - 1])
    with claimed(out, {"command": "compress"}) as beside:
        begin()
        parent = parent_facts(model.checkpoint)
        others = {path.name: digest(path) for path in other_files(source)}
        folders = _folders(beside, recipe, [parent["sha256"], others])
        _check_device(recipe, folders, device)
        _clear_others(beside, folders)
        at = source
        for number, (stage, folder) in enumerate(zip(recipe.stages, folders, strict=True), 1):
            if not folder.exists():
                with _named(recipe, number):
                    runs[stage.kind](stage, at, folder, source, device, partial(progress, number))
            at = folder
        add_section(at / REPORT, "compress", {
            "recipe": {"name": recipe.path.name, "sha256": digest(recipe.path)}, "parent": parent,
            "stages": [_told(stage, folder) for stage, folder in zip(recipe.stages, folders, strict=True)],
            "versions": versions()})
        finish(at)
        at.rename(out)


def check_recipe_texts(source: Path, recipe: Recipe) -> set[int]:
    """Read every stage's text as the stage will: what is too short for the last is told before the first.

    Returns hashes of their passages. Raises ConfigError, with the stage in front; ModelError for a folder without a
    tokenizer.
    """
    spec, tokenizer = read_spec(Config.load(source / "config.json")), load_tokenizer(source)
    seen = set[int]()
    for number, stage in enumerate(recipe.stages, 1):
        with _named(recipe, number):
            seen |= passages_read(stage, spec, tokenizer)
    return seen


@contextmanager
def _named(recipe: Recipe, number: int) -> Iterator[None]:
    """What is wrong with a stage has the stage in front."""
    try:
        yield
    except NearfieldError as error:
        raise type(error)(f"{recipe.path}: stage {number} ({recipe.stages[number - 1].kind}): {spelled(str(error))}"
                          ) from None


def _folders(beside: Path, recipe: Recipe, model: Any) -> list[Path]:
    """Where each stage puts what it makes. Threads count: sums of floats have the order that they share work in."""
    mark = _hash([model, versions(), torch.get_num_threads()])
    folders = []
    for number, stage in enumerate(recipe.stages, 1):
        mark = _hash([mark, stage.kind, stage.options, [digest(file) for file in stage.texts or ()]])
        folders.append(beside / f"{number}-{stage.kind}-{mark[:16]}")
    return folders


def _files(recipe: Recipe) -> list[Path]:
    """What the recipe reads, itself too."""
    texts = [*(stage.texts for stage in recipe.stages), recipe.evaluate and recipe.evaluate.texts]
    return [recipe.path, *(file for files in texts for file in files or ())]


def _clear_others(beside: Path, folders: Sequence[Path]) -> None:
    """Remove what stages of other recipes left; raises ConfigError for what they finished, which may have taken hours.
    """
    keep = {path for folder in folders for path in (folder, partial_of(folder))}
    if finished := [str(path) for path in sorted(beside.iterdir()) if path not in keep and has_finished(path)]:
        raise ConfigError(f"{', '.join(finished)}: finished by another recipe, or on other text, another model, other "
                          "threads; repeat that command to continue it, or remove this to go on with what both share")
    clear(beside, keep)


def _check_device(recipe: Recipe, folders: Sequence[Path], device: str) -> None:
    """Raises ConfigError where a finished stage computed on another device."""
    for stage, folder in zip(recipe.stages, folders, strict=True):
        begun = read_report(folder / REPORT).get(stage.kind, {}).get("device", device)
        if begun != device:
            raise other_device(folder.parent, begun, device)


def _told(stage: Stage, folder: Path) -> dict[str, Any]:
    return {"kind": stage.kind, "options": dict(stage.options),
            "text": {file.name: digest(file) for file in stage.texts or ()},
            "seconds": read_report(folder / REPORT).get(stage.kind, {}).get("seconds")}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
