"""The kinds of stages that a recipe may have: what each may say, and what it does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.plan import DistillOptions
from nearfield.compress.folder import Progress
from nearfield.compress.plan import PROFILES
from nearfield.compress.prune.folder import prune_folder
from nearfield.compress.prune.options import PruneOptions
from nearfield.compress.quantize.choose import METHODS
from nearfield.compress.quantize.options import DEVICES, FORMATS, QuantizeOptions
from nearfield.compress.quantized import quantize_model
from nearfield.compress.recipe import Kind, Stage, flag, number, one_of, whole
from nearfield.core.config import parse_bytes
from nearfield.core.errors import ConfigError
from nearfield.formats.groups import check_group


class Run(Protocol):
    """Does a stage: writes what it makes of the model in `source` to the new folder `out`."""

    def __call__(self, stage: Stage, source: Path, out: Path, first: Path, progress: Progress) -> None:
        """first: the folder that the first stage began with. A run that was killed is continued, to the same bits."""
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
    "prune": Kind({"ffn": number, "layers": whole(), "heads": whole()}, "calibration"),
    "distill": Kind({"tokens": whole(1), "block-local": flag, "learning-rate": number, "seed": whole(0)}, "text",
                    generated=True),
    "quantize": Kind({"format": one_of(*FORMATS), "group": _group, "fit": _size, "method": one_of(*METHODS),
                      "profile": one_of(*PROFILES), "device": one_of(*DEVICES)}, "calibration",
                     needs_text=lambda options: options.get("method") != "rtn"),
}


def _prune(stage: Stage, source: Path, out: Path, first: Path, progress: Progress) -> None:
    prune_folder(source, out, PruneOptions(**stage.options), stage.texts or (), progress=progress)


def _distill(stage: Stage, source: Path, out: Path, first: Path, progress: Progress) -> None:
    options = {key.replace("-", "_"): value for key, value in stage.options.items()}
    distill_folder(source, first, out, DistillOptions(**options), stage.texts,
                   progress=lambda standing: progress(standing.done, standing.total))


def _quantize(stage: Stage, source: Path, out: Path, first: Path, progress: Progress) -> None:
    quantize_model(source, out, QuantizeOptions(**stage.options), stage.texts, progress=progress)


RUNS: Mapping[str, Run] = {"prune": _prune, "distill": _distill, "quantize": _quantize}


def check_stage(stage: Stage) -> None:
    """Raises ConfigError for options that do not go together, as far as can be said without the model."""
    if stage.kind == "quantize":
        QuantizeOptions(**stage.options).chosen(stage.texts is not None)
