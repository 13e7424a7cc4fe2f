"""Distilling: a smaller model learns to say what the model it was made of says, and becomes a folder of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DistillOptions:
    """How long and how hard: tokens of training, whether each layer learns by itself first, the peak learning rate.

    The seed decides the order of the text, and the text itself where the teacher writes it.
    """

    tokens: int = 300_000
    block_local: bool = False
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Standing:
    """How far a run is: what it does now, tokens of it done, and all; the loss and the last held-out KL, in nats."""

    stage: str
    done: int
    total: int
    loss: float | None = None
    held_out: float | None = None


Progress = Callable[[Standing], None]


def distill_folder(student: Path, teacher: Path, out: Path, options: DistillOptions, texts: Sequence[Path] | None, *,
                   progress: Progress = lambda standing: None) -> None:
    """Write to the new folder `out` the model in the folder `student`, taught by the one in the folder `teacher`.

    texts: files of UTF-8 text, or None for text that the teacher writes itself.
    """
    raise NotImplementedError
