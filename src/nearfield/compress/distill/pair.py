"""A student and its teacher: two dense folders that read and write the same tokens."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nearfield.compress.report import REPORT, read_report
from nearfield.core.errors import ConfigError, ModelError
from nearfield.formats.checkpoint import Checkpoint
from nearfield.formats.manifest import read_manifest
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec

_TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")


@dataclass(frozen=True)
class Pair:
    """The folders and the shapes of both."""

    student: Path
    teacher: Path
    student_spec: ModelSpec
    teacher_spec: ModelSpec

    @classmethod
    def read(cls, student: Path, teacher: Path) -> "Pair":
        """Raises ModelError for folders that are no models, quantised ones, and models of other tokens."""
        pair = cls(student, teacher, _dense_spec(student), _dense_spec(teacher))
        sizes = pair.student_spec.vocab_size, pair.teacher_spec.vocab_size
        if sizes[0] != sizes[1]:
            raise ModelError(f"{student}: has a vocabulary of {sizes[0]}, {teacher} one of {sizes[1]}; give a model "
                             "and one that was made of it")
        if _tokenizer(student) != _tokenizer(teacher):
            raise ModelError(f"{student}: its tokenizer is another than that of {teacher}; give a model and one that "
                             "was made of it")
        return pair

    def spans(self) -> tuple[range, ...]:
        """The teacher's layers that each of the student's stands for: the one that it was made of, as report.json
        tells, and those after it that were dropped; the first also for those before it. Raises ConfigError."""
        mine, others = self.student_spec, self.teacher_spec
        if mine.hidden_size != others.hidden_size:
            raise ConfigError(f"{self.student}: its hidden states are of {mine.hidden_size} numbers, those of "
                              f"{self.teacher} of {others.hidden_size}; a layer cannot learn from these by itself: "
                              "leave out --block-local")
        kept = list(range(others.num_layers))
        if mine.num_layers != others.num_layers:
            kept = _kept_layers(read_report(self.student / REPORT))
            if len(kept) != mine.num_layers or not all(a < b for a, b in pairwise([-1, *kept, others.num_layers])):
                raise ConfigError(f"{self.student}: has {mine.num_layers} layers, {self.teacher} {others.num_layers}, "
                                  f"and {REPORT} does not say which of those they were; leave out --block-local")
        edges = [0, *kept[1:], others.num_layers]
        return tuple(range(first, last) for first, last in pairwise(edges))

    def sha256(self) -> dict[str, dict[str, str]]:
        """The hashes of what decides both models."""
        return {name: {path.name: _digest(path) for path in (folder / "config.json", *Checkpoint(folder).files())}
                for name, folder in (("student", self.student), ("teacher", self.teacher))}


def _dense_spec(folder: Path) -> ModelSpec:
    config = Config.load(folder / "config.json")
    if (manifest := read_manifest(config.data, config.path)) is not None:
        raise ModelError(f"{folder}: is quantised, as {manifest}, and codes do not learn; make it dense first: "
                         f"nearfield unpack {folder} OUT")
    return read_spec(config)


def _kept_layers(report: dict[str, Any]) -> list[int]:
    try:
        return [int(layer) for layer in report["prune"]["layers"]["kept"]]
    except (KeyError, TypeError, ValueError):
        return []


def _tokenizer(folder: Path) -> dict[str, str]:
    return {name: _digest(folder / name) for name in _TOKENIZERS if (folder / name).exists()}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
