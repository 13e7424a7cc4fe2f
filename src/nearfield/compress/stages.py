"""The kinds of stages that a recipe may have: what each may say, and what it does."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nearfield.compress import calibrated
from nearfield.compress.distill import plan as distilled
from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.plan import DistillOptions, chunk_length
from nearfield.compress.fit import Fit, least_bytes
from nearfield.compress.folder import Progress
from nearfield.compress.plan import PROFILES, Target, check_groups, check_widths
from nearfield.compress.prune import folder as pruned_by
from nearfield.compress.prune.folder import prune_folder
from nearfield.compress.prune.options import PruneOptions, sizes
from nearfield.compress.quantize.choose import METHODS
from nearfield.compress.quantize.options import FORMATS, QuantizeOptions
from nearfield.compress.quantized import quantize_model
from nearfield.compress.recipe import Kind, Stage, flag, number, one_of, whole
from nearfield.compress.text import passages, read_text
from nearfield.core.config import format_bytes, parse_bytes
from nearfield.core.errors import ConfigError
from nearfield.formats.groups import check_group
from nearfield.models.inventory import take_inventory
from nearfield.models.registry import read_spec
from nearfield.models.reshape import smaller_config
from nearfield.models.spec import Config, ModelSpec
from nearfield.models.tokenizer import Tokenizer


class Run(Protocol):
    """Does a stage: writes what it makes of the model in `source` to the new folder `out`."""

    def __call__(self, stage: Stage, source: Path, out: Path, first: Path, device: str, progress: Progress) -> None:
        """first: the folder that the first stage began with. device: "cpu" or "cuda", where the stage computes. A run
        that was killed is continued, to the same bits."""
        ...


def _size(value: Any) -> int:
    try:
        return whole(1)(value) if isinstance(value, int) else parse_bytes(str(value))
    except ConfigError as error:
        raise ValueError(f"is {value!r}; {error}") from None


def _group(value: Any) -> int:
    try:
        return check_group(value)
    except ConfigError as error:
        raise ValueError(f"is {value!r}; {error}") from None


KINDS: Mapping[str, Kind] = {
    "prune": Kind({"ffn": number, "layers": whole(), "heads": whole(), "compensate": flag}, "calibration"),
    "distill": Kind({"tokens": whole(1), "block-local": flag, "learning-rate": number, "seed": whole(0)}, "text",
                    generated=True),
    "quantize": Kind({"format": one_of(*FORMATS), "group": _group, "fit": _size, "method": one_of(*METHODS),
                      "profile": one_of(*PROFILES)}, "calibration",
                     needs_text=lambda options: options.get("method") != "rtn"),
}


def _prune(stage: Stage, source: Path, out: Path, first: Path, device: str, progress: Progress) -> None:
    prune_folder(source, out, PruneOptions(**stage.options), stage.texts or (), device=device,
                 progress=progress)


def _distill(stage: Stage, source: Path, out: Path, first: Path, device: str, progress: Progress) -> None:
    distill_folder(source, first, out, _distill_options(stage), stage.texts, device=device,
                   progress=lambda standing: progress(standing.done, standing.total))


def _distill_options(stage: Stage) -> DistillOptions:
    return DistillOptions(**{key.replace("-", "_"): value for key, value in stage.options.items()})


def _quantize(stage: Stage, source: Path, out: Path, first: Path, device: str, progress: Progress) -> None:
    place = "cpu" if stage.texts is None else device        # rounding alone has no other
    quantize_model(source, out, QuantizeOptions(**stage.options, device=place), stage.texts, progress=progress)


_CHUNKS = {"prune": (pruned_by.LENGTH, pruned_by.LEAST), "distill": (distilled.LENGTH, distilled.LEAST),
           "quantize": (calibrated.LENGTH, calibrated.LEAST)}
"""Tokens of a chunk of text, and chunks that are needed at least, by kind."""

RUNS: Mapping[str, Run] = {"prune": _prune, "distill": _distill, "quantize": _quantize}


def check_stage(stage: Stage, config: Config, first: Config, before: Sequence[Stage]) -> Config:
    """The config.json that the stage leaves of the one that it begins with.

    first: that of the model that the first stage begins with; before: the stages before this one. Raises ConfigError
    for options that do not go together, or not with such a model.
    """
    spec = read_spec(config)
    if stage.kind == "prune":
        wanted = sizes(spec, PruneOptions(**stage.options))
        # Which layers go is not known yet, and their shapes are alike.
        return Config(smaller_config(config, range(wanted.layers), wanted.inner, wanted.kv_heads), config.path)
    if stage.kind == "distill":
        options, teacher = _distill_options(stage), read_spec(first)
        options.check(chunk_length(spec, teacher))
        cuts = [earlier.options.get("layers", 0) for earlier in before if earlier.kind == "prune"]
        if options.block_local and cuts and teacher.num_layers + cuts[-1] != spec.num_layers:
            raise ConfigError("the last stage that prunes is not the one that all layers went in, and no layer would "
                              "know those that it stands for: take them out in one stage, or leave out --block-local")
    if stage.kind == "quantize":
        asked = QuantizeOptions(**stage.options)
        asked.chosen(stage.texts is not None)
        pruned = [i for i, earlier in enumerate(before, 1) if earlier.kind == "prune"]
        made = f", as stage {pruned[-1]} (prune) will leave it" if pruned else ""
        _check_quantize(f"{config.path.parent}{made}", spec, asked.target())
    return config


def passages_read(stage: Stage, spec: ModelSpec, tokenizer: Tokenizer) -> set[int]:
    """Hashes of the passages of the text that the stage will read. Raises ConfigError for files that cannot be read, or
    are shorter than the stage needs."""
    if not stage.texts:
        return set()
    most, least = _CHUNKS[stage.kind]
    length = min(most, spec.max_positions)
    count = _distill_options(stage).chunks(length) if stage.kind == "distill" else calibrated.CHUNKS
    return passages(read_text(stage.texts, tokenizer, count, length, least), tokenizer)


def _check_quantize(place: str, spec: ModelSpec, target: Target | Fit) -> None:
    found = take_inventory(spec)
    linears = {name: shape for parts in found.linears for name, shape in parts.items()}
    check_widths(place, linears)
    if isinstance(target, Target):
        check_groups(place, linears, target)
    elif (least := least_bytes(linears.values(), found.tables.values(), target.profile)) > target.nbytes:
        raise ConfigError(f"{place}: cannot be made to fit {format_bytes(target.nbytes)}; its codes alone are "
                          f"{format_bytes(least)} at least; give more with --fit")


_KEYS = "|".join(sorted({key for kind in KINDS.values() for key in (kind.text, *kind.readers)}, key=len, reverse=True))
_WORDS = "|".join((*FORMATS, *METHODS, *PROFILES))
_OPTION = re.compile(rf"--({_KEYS})\b(?: (?:(-?(?:[0-9]+(?:\.[0-9]+)?|inf|nan))|({_WORDS})|(FILE))\b)?")


def spelled(message: str) -> str:
    """A message of the command line in the words of a recipe: --ffn 0.8 is ffn = 0.8."""
    def key(found: re.Match[str]) -> str:
        name, number, word, file = found.groups()
        if number:
            return f"{name} = {number}"
        return f'{name} = "{word}"' if word else f'{name} = ["{file}"]' if file else name
    return _OPTION.sub(key, message)
