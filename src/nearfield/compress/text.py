"""Text for calibration and for measuring: files to chunks of tokens, and whether two texts share passages."""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.core.errors import ConfigError
from nearfield.models.tokenizer import Tokenizer

WORDS = 13
"""Words of a passage: two texts that have so many in a row in common share more than a phrase (Brown et al. 2020,
appendix C)."""

_KEPT = 8
"""One passage in so many is remembered, chosen by its hash: shares of overlap stay right, the list short."""


@dataclass(frozen=True)
class Text:
    """Files cut into chunks of ids [count, length]. `hashes`: each file's name and sha256."""

    chunks: Tensor
    hashes: tuple[tuple[str, str], ...]


def read_text(files: Sequence[Path], tokenizer: Tokenizer, count: int, length: int, least: int) -> Text:
    """Up to `count` chunks of `length` tokens from all over the files, end to end, each opened as the tokenizer opens
    a text. Raises ConfigError for files that cannot be read, or make fewer than `least` chunks.
    """
    found = [_read(file) for file in files]
    opening = [] if tokenizer.bos_id is None or tokenizer.encode("")[:1] != [tokenizer.bos_id] else [tokenizer.bos_id]
    ids = [token for _, text in found for token in tokenizer.encode(text, add_special=False)]
    body = length - len(opening)
    fitting = len(ids) // body
    if fitting < least:
        raise ConfigError(f"{', '.join(map(str, files))}: {len(ids)} tokens, {least * body} are needed at least "
                          f"(chunks of {length}); give more text")
    made = min(count, fitting)
    starts = [i * (fitting // made) * body for i in range(made)]
    chunks = torch.tensor([opening + ids[start:start + body] for start in starts])
    return Text(chunks, tuple((file.name, digest) for file, (digest, _) in zip(files, found, strict=True)))


def passages(text: Text, tokenizer: Tokenizer) -> set[int]:
    """Hashes of the passages of the chunks: runs of WORDS words, one in eight."""
    return {mark for row in text.chunks.tolist() for mark in _passages(tokenizer.decode(row))}


def text_facts(text: Text, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a report tells of a text that something was made by: enough to know it again."""
    return {"sha256": dict(text.hashes), "tokens": text.chunks.numel(),
            "passages": pack_passages(passages(text, tokenizer))}


def overlap(passages: set[int], others: Iterable[int]) -> float:
    """The share of `passages` that `others` have too."""
    return len(passages.intersection(others)) / max(len(passages), 1)


def pack_passages(passages: Iterable[int]) -> str:
    """For a report in JSON."""
    return base64.b64encode(b"".join(mark.to_bytes(8, "little") for mark in sorted(passages))).decode()


def unpack_passages(packed: str) -> set[int]:
    """What `pack_passages` was given. Raises ValueError."""
    data = base64.b64decode(packed, validate=True)
    return {int.from_bytes(data[at:at + 8], "little") for at in range(0, len(data), 8)}


def _read(file: Path) -> tuple[str, str]:
    """A file's sha256, and its text."""
    try:
        data = file.read_bytes()
        return sha256(data).hexdigest(), data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a file of text") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text (at byte {error.start}); give a file of text") from None


def _passages(text: str) -> Iterator[int]:
    words = re.findall(r"\w+", text.lower())
    for first in range(len(words) - WORDS + 1):
        digest = blake2b(" ".join(words[first:first + WORDS]).encode(), digest_size=8).digest()
        mark = int.from_bytes(digest, "little")
        if mark % _KEPT == 0:
            yield mark
