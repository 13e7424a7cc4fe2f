"""A student and its teacher: two dense folders that read and write the same tokens."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nearfield.compress.parent import Parent, read_parent
from nearfield.compress.report import REPORT, parent_facts, read_report
from nearfield.core.errors import ConfigError, ModelError

_TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")


@dataclass(frozen=True)
class Pair:
    """Both models."""

    student: Parent
    teacher: Parent

    @classmethod
    def read(cls, student: Path, teacher: Path) -> "Pair":
        """Raises ModelError for folders that are no models, quantised ones, and models of other tokens."""
        pair = cls(read_parent(student), read_parent(teacher))
        sizes = pair.student.spec.vocab_size, pair.teacher.spec.vocab_size
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
        mine, others = self.student.spec, self.teacher.spec
        student, teacher = self.student.checkpoint.folder, self.teacher.checkpoint.folder
        if mine.hidden_size != others.hidden_size:
            raise ConfigError(f"{student}: its hidden states are of {mine.hidden_size} numbers, those of "
                              f"{teacher} of {others.hidden_size}; a layer cannot learn from these by itself: "
                              "leave out --block-local")
        dropped = _dropped_layers(read_report(student / REPORT)) if mine.num_layers != others.num_layers else []
        kept = [layer for layer in range(others.num_layers) if layer not in dropped]
        if len(kept) != mine.num_layers:
            raise ConfigError(f"{student}: has {mine.num_layers} layers, {teacher} {others.num_layers}, and {REPORT} "
                              "does not say which of those went; leave out --block-local")
        edges = [0, *kept[1:], others.num_layers]
        return tuple(range(first, last) for first, last in pairwise(edges))

    def facts(self) -> dict[str, Any]:
        """What both are: the folders' names, the hashes of their files."""
        return {"student": parent_facts(self.student.checkpoint), "teacher": parent_facts(self.teacher.checkpoint)}


def _dropped_layers(report: dict[str, Any]) -> list[int]:
    try:
        return [int(layer) for layer in report["prune"]["layers"]["dropped"]]
    except (KeyError, TypeError, ValueError):
        return []


def _tokenizer(folder: Path) -> dict[str, str]:
    return {name: _digest(folder / name) for name in _TOKENIZERS if (folder / name).exists()}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
