"""A recipe: the stages by which a model becomes a smaller one, in a file of TOML, checked before anything is computed.

    [[stage]]
    kind = "quantize"               # prune, distill or quantize: the commands, with their options by their names
    format = "w4"
    calibration = ["chats.txt"]     # files of text, from the recipe's folder; else those of the command line

    [evaluate]                      # may be left out: how far the result is from the model it was made of
    text = ["held-out.txt"]
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nearfield.core.errors import ConfigError, nearest

Reader = Callable[[Any], Any]
"""Takes a value of TOML; raises ValueError, saying what it must be."""

TOKENS = 16384
_TABLES = ("stage", "evaluate")


@dataclass(frozen=True)
class Kind:
    """What a stage of this kind may say: its options, and under which key it names its text.

    generated: the text may be the word "generate" too. needs_text: whether a stage of these options looks at any.
    """

    readers: Mapping[str, Reader]
    text: str
    needs_text: Callable[[Mapping[str, Any]], bool] = lambda options: True
    generated: bool = False


@dataclass(frozen=True)
class Stage:
    """One stage. texts: the files that it reads, or None where it reads none, or writes its own."""

    kind: str
    options: Mapping[str, Any]
    texts: tuple[Path, ...] | None


@dataclass(frozen=True)
class Evaluation:
    """The text to judge the result by, and how many tokens of it are scored."""

    texts: tuple[Path, ...]
    tokens: int


@dataclass(frozen=True)
class Recipe:
    """What is done, in order."""

    path: Path
    stages: tuple[Stage, ...]
    evaluate: Evaluation | None


def read_recipe(path: Path, kinds: Mapping[str, Kind], calibration: Sequence[Path] | None = None,
                text: Sequence[Path] | None = None) -> Recipe:
    """Read a file. `calibration`: for stages that name no text; `text`: for an [evaluate] that names none.

    Raises ConfigError that names the file, the stage and the key, with the nearest known one.
    """
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a recipe, a file of TOML") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from None
    _known(f"{path}", data, _TABLES)
    stages = data.get("stage")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise ConfigError(f"{path}: has no stages; each begins with a line [[stage]] and one such as kind = "
                          f"{next(iter(kinds))!r}")
    found = tuple(_stage(path, i, stage, kinds, calibration) for i, stage in enumerate(stages, 1))
    for i, stage in enumerate(found[:-1], 1):
        if stage.kind == "quantize":
            raise ConfigError(f"{path}: stage {i} (quantize) makes codes, which no later stage can change; put it last")
    if text is not None and "evaluate" not in data:
        raise ConfigError(f"{path}: has no [evaluate] to use --text; add one, or leave --text out")
    return Recipe(path, found, _evaluation(path, data["evaluate"], text) if "evaluate" in data else None)


def one_of(*names: str) -> Reader:
    """One of these words."""
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"is {value!r}{nearest(str(value), names)}; it is one of {', '.join(names)}")
        return value
    return read


def whole(low: int | None = None) -> Reader:
    """A whole number of at least `low`, in the 64 bits that TOML has for one."""
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or (low is not None and value < low):
            least = "" if low is None else f" of at least {low}"
            raise ValueError(f"is {value!r}; it is a whole number{least}")
        if not -2**63 <= value < 2**63:
            raise ValueError(f"is {value}; the largest number of TOML is {2**63 - 1}")
        return value
    return read


def number(value: Any) -> float:
    """A number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"is {value!r}; it is a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is larger than any number that is computed with") from None


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"is {value!r}; it is true or false")
    return value


def _stage(path: Path, number: int, data: Mapping[str, Any], kinds: Mapping[str, Kind],
           calibration: Sequence[Path] | None) -> Stage:
    name = data.get("kind")
    if not isinstance(name, str) or name not in kinds:
        problem = "has no kind" if name is None else f"is of the unknown kind {name!r}{nearest(str(name), kinds)}"
        raise ConfigError(f"{path}: stage {number} {problem}; kinds are {', '.join(kinds)}")
    kind, place = kinds[name], f"{path}: stage {number} ({name})"
    _known(place, data, ("kind", kind.text, *kind.readers))
    options = {}
    for key, reader in kind.readers.items():
        if key in data:
            try:
                options[key] = reader(data[key])
            except ValueError as error:
                raise ConfigError(f"{place}: {key} {error}") from None
    if kind.generated and data.get(kind.text) == "generate":
        return Stage(name, options, None)
    if kind.text in data:
        return Stage(name, options, _files(place, kind.text, data[kind.text], path.parent))
    if not kind.needs_text(options):
        return Stage(name, options, None)
    if calibration is None:
        raise ConfigError(f'{place}: looks at text and names none; add {kind.text} = ["FILE"], or give --calibration '
                          "FILE")
    return Stage(name, options, _files(place, kind.text, list(map(str, calibration)), Path()))


def _evaluation(path: Path, data: Any, text: Sequence[Path] | None) -> Evaluation:
    place = f"{path}: [evaluate]"
    if not isinstance(data, dict):
        raise ConfigError(f"{place} must be a table, is {data!r}")
    _known(place, data, ("text", "tokens"))
    if "text" not in data and text is None:
        raise ConfigError(f'{place} names no text; add text = ["FILE"], or give --text FILE')
    files = (_files(place, "text", data["text"], path.parent) if "text" in data
             else _files(place, "text", list(map(str, text or ())), Path()))
    try:
        return Evaluation(files, whole(1)(data.get("tokens", TOKENS)))
    except ValueError as error:
        raise ConfigError(f"{place}: tokens {error}") from None


def _known(place: str, data: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in data:
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}{nearest(key, known)}; known are {', '.join(known)}")


def _files(place: str, key: str, value: Any, folder: Path) -> tuple[Path, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{place}: {key} is {value!r}; it is a list of files of text")
    files = tuple(folder / name for name in names)
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{place}: {key}: {file}: no such file; give a file of UTF-8 text")
    return files
