"""From text to token ids and back: what the rest of Nearfield sees of a model's tokenizer.

A folder may hold its vocabulary in three ways; the first one found is used: tokenizer.json,
vocab.json with merges.txt, SentencePiece's tokenizer.model. tokenizer.json comes first because
its file alone says everything about how text is cut.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nearfield.core.errors import ModelError
from nearfield.core.types import TokenId
from nearfield.models.gguf_folder import origin
from nearfield.models.tokenizer_bpe import load_tokenizer_json, load_vocab_and_merges
from nearfield.models.tokenizer_files import read_tokenizer_files
from nearfield.models.tokenizer_spm import SentencePieceTokenizer


class Tokenizer(Protocol):
    """One model's vocabulary. Any thread may use it at any time.

    Special tokens are those the folder marks as special (control tokens). Other added tokens,
    such as <tool_call> in some families, are vocabulary: they are always read from text.
    """

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that has a spelling; a model's logits may be wider (padding)."""

    @property
    def bos_id(self) -> TokenId | None:
        """The id that begins a text, or None."""

    @property
    def eos_ids(self) -> tuple[TokenId, ...]:
        """The ids that end an answer: those of generation_config.json and the tokenizer's own."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The spellings that encode() reads as one id where `parse_special` holds."""

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[TokenId]:
        """The ids of a text.

        add_special: put what the model wants around a text, usually bos. parse_special: read a
        special token's spelling as that token; otherwise it is text like any other.
        Raises InvalidRequestError when the text holds lone surrogates.
        """

    def decode(self, ids: Sequence[TokenId], *, skip_special: bool = True) -> str:
        """The text of ids: their bytes end to end, read as UTF-8, with U+FFFD for what is not.

        The one space that encode() puts in front, in vocabularies that do so, is taken away.
        skip_special: leave special tokens out. Raises InvalidRequestError for an id that is
        negative or not below vocab_size.
        """

    def token_bytes(self, token_id: TokenId) -> bytes:
        """The bytes that a token stands for; b"" for an id without a spelling (models pad theirs)."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a model folder. Raises ModelError, naming the file and the remedy."""
    files = read_tokenizer_files(folder)
    if (folder / "tokenizer.json").exists():
        return load_tokenizer_json(folder / "tokenizer.json", files)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return load_vocab_and_merges(folder, files)
    if (folder / "tokenizer.model").exists():
        return SentencePieceTokenizer(folder / "tokenizer.model", files)
    if (file := origin(folder)) != folder:
        raise ModelError(f"{file}: has no tokenizer: it has no key tokenizer.ggml.model; convert the original model "
                         "again with its tokenizer, or load the model without one and send token ids")
    raise ModelError(
        f"{folder} has no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor "
        "tokenizer.model; fetch one of them, or load the model without a tokenizer and send token ids"
    )
