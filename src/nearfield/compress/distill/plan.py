"""A distillation, decided and checked before anything is computed."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nearfield.compress.distill.network import DTYPE
from nearfield.compress.distill.pair import Pair
from nearfield.compress.distill.tasks import OF_HIDDEN
from nearfield.compress.report import versions
from nearfield.compress.text import Text, read_text, text_facts
from nearfield.core.errors import ConfigError
from nearfield.models.inventory import take_inventory
from nearfield.models.spec import ModelSpec
from nearfield.models.tokenizer import Tokenizer, load_tokenizer

LENGTH = 1024
"""Tokens of a chunk, where both models can read as many. Of places that no chunk has the student learns nothing: taught
in chunks of 512, the pocket model's agrees less from there on."""

HELD, LEAST = 16, 16
"""Chunks that are held out of a long text, and chunks below which a text is too short."""

_LONG = 1_000_000
"""Tokens from which a step takes two chunks instead of one. Whole distributions are little noise, so a short training
gains by more steps, a long one by less noise at its end."""

_STATE = 5 * 4
"""Bytes of the state on the disk, a weight: itself, two that AdamW remembers, the best, and the model at the end."""


@dataclass(frozen=True)
class DistillOptions:
    """How long and how hard: tokens of training, whether each layer learns by itself first, the peak learning rate.

    The seed decides the order of the text, and the text itself where the teacher writes it.
    """

    tokens: int = 300_000
    block_local: bool = False
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def batch(self) -> int:
        """Chunks of a step."""
        return 1 if self.tokens < _LONG else 2

    def chunks(self, length: int) -> int:
        """Chunks of `length` tokens that are wanted of a text, those that are held out among them."""
        return self.tokens // length + HELD

    def check(self, length: int) -> None:
        """Raises ConfigError for options that make no training in chunks of `length` tokens."""
        if self.tokens < self.batch * length:
            raise ConfigError(f"{self.tokens} tokens are less than a step, which takes {self.batch * length}; give "
                              "more with --tokens")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"a learning rate of {self.learning_rate} teaches nothing; give one between 0 and 1 with "
                              "--learning-rate")


@dataclass(frozen=True)
class DistillPlan:
    """Who learns from whom, from `count` chunks of `length` tokens. text: None where the teacher writes it, each chunk
    opened with the token `opening`. spans: the teacher's layers that each of the student's learns by itself."""

    pair: Pair
    options: DistillOptions
    tokenizer: Tokenizer
    text: Text | None
    opening: int
    spans: tuple[range, ...]
    count: int
    length: int

    @classmethod
    def make(cls, pair: Pair, options: DistillOptions, texts: Sequence[Path] | None) -> "DistillPlan":
        """Raises ConfigError for text that is too short, and options that make no training."""
        length = chunk_length(pair.student.spec, pair.teacher.spec)
        options.check(length)
        folder = pair.teacher.checkpoint.folder
        tokenizer = load_tokenizer(folder)
        wanted = options.chunks(length)
        text = None if texts is None else read_text(texts, tokenizer, wanted, length, LEAST)
        if text is not None and (most := int(text.chunks.max())) >= pair.teacher.spec.vocab_size:
            raise ConfigError(f"{folder}: the tokenizer makes id {most}, config.json has a vocab_size of "
                              f"{pair.teacher.spec.vocab_size}; they are not of one model")
        return cls(pair, options, tokenizer, text, opening(tokenizer, folder) if text is None else 0,
                   pair.spans() if options.block_local else (), wanted if text is None else len(text.chunks), length)

    @property
    def steps(self) -> int:
        """Steps of training."""
        return self.options.tokens // (self.options.batch * self.length)

    @property
    def held(self) -> list[int]:
        """The chunks that are held out, from all over the text."""
        count = min(HELD, self.count // 8)
        return [i * self.count // count for i in range(count)]

    @property
    def learned(self) -> list[int]:
        """The chunks that are learned from."""
        held = set(self.held)
        return [chunk for chunk in range(self.count) if chunk not in held]

    def facts(self) -> dict[str, Any]:
        """What decides the result."""
        return {"options": asdict(self.options), "chunk": self.length, "of_hidden": OF_HIDDEN, **self.pair.facts(),
                "versions": versions()}

    def text_facts(self) -> dict[str, Any]:
        """What is learned from; the passages are for those who measure, and must not measure on them."""
        read = {"generated_by": "teacher", "tokens": self.count * self.length} if self.text is None \
            else text_facts(self.text, self.tokenizer)
        return {**read, "held_out": len(self.held) * self.length}

    def digest(self) -> str | None:
        """The hash of the chunks, where they are read."""
        return None if self.text is None else hashlib.sha256(self.text.chunks.numpy().data).hexdigest()

    def nbytes(self) -> int:
        """Bytes on the disk while it runs: what the teacher says, the state, and the model."""
        places = 3 if self.options.block_local else 1
        said = self.count * self.length * (places * self.pair.teacher.spec.hidden_size * DTYPE.itemsize + 8)
        return said + _STATE * take_inventory(self.pair.student.spec).numbers


def chunk_length(student: ModelSpec, teacher: ModelSpec) -> int:
    """Tokens of a chunk that both can read."""
    return min(LENGTH, student.max_positions, teacher.max_positions)


def opening(tokenizer: Tokenizer, folder: Path) -> int:
    """What a text begins with: BOS, or what models without one were trained to see between two texts."""
    found = next(iter(tokenizer.eos_ids), None) if tokenizer.bos_id is None else tokenizer.bos_id
    if found is None:
        raise ConfigError(f"{folder}: its tokenizer has no token that begins or ends a text, so it cannot write any; "
                          "give text with --text FILE")
    return found
