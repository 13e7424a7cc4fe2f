"""SentencePiece vocabularies: a tokenizer.model of Llama 1 and 2, Mistral and their kin.

The sentencepiece library never reads a control piece or an added token from text, so the special
spellings are cut out first, here. Two processors are kept: the library puts a space before
whatever it encodes, and newer folders (`legacy` false) want that at the start of the text only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from nearfield.core.errors import ModelError
from nearfield.core.types import TokenId
from nearfield.models.token_text import byte_fallback, check_ids, check_text, join_text
from nearfield.models.tokenizer_files import MAX_VOCABULARY_BYTES, TokenizerFiles, read_bytes

# A protobuf message may be continued by appending fields: normalizer_spec { add_dummy_prefix: false }.
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


class SentencePieceTokenizer:
    """A Tokenizer over tokenizer.model plus the added tokens of the folder's JSON files."""

    def __init__(self, path: Path, files: TokenizerFiles) -> None:
        proto = read_bytes(path, MAX_VOCABULARY_BYTES)
        self._first = _load(path, proto)
        self._later = self._first if files.flag("legacy", True) else _load(path, proto + _NO_DUMMY_PREFIX)
        if not files.flag("add_prefix_space", True):
            self._first = self._later = _load(path, proto + _NO_DUMMY_PREFIX)
        self._drop_space = _adds_space(self._first)
        self._size = self._first.vocab_size()
        self._added = {number: token.content for number, token in files.added.items()}
        special, every = _spellings(self._first, files)
        self._special_ids = frozenset(special.values())
        self._all_spellings, self._all_pattern = every, _pattern(every)
        self._plain_pattern = _pattern([text for text in every if text not in special])
        self.special_tokens = tuple(special)
        self.vocab_size = max([self._size - 1, *every.values()]) + 1
        self.bos_id, self.eos_ids = self._ends(files)
        self._prefix = [self.bos_id] if files.flag("add_bos_token", True) and self.bos_id is not None else []

    def _ends(self, files: TokenizerFiles) -> tuple[TokenId | None, tuple[TokenId, ...]]:
        """The folder's JSON files know best; the model file itself knows too."""
        bos, eos = files.ends(self._all_spellings.get)
        own_bos, own_eos = self._first.bos_id(), self._first.eos_id()
        if bos is None and own_bos >= 0:
            bos = own_bos
        if "eos_token" not in files.named and own_eos >= 0:
            eos = tuple(dict.fromkeys([*eos, own_eos]))
        return bos, eos

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[TokenId]:
        """As Tokenizer.encode."""
        check_text(text)
        ids = list(self._prefix) if add_special else []
        start = 0
        for match in (self._all_pattern if parse_special else self._plain_pattern).finditer(text):
            ids += self._pieces(text[start : match.start()], start)
            ids.append(self._all_spellings[match.group()])
            start = match.end()
        return ids + self._pieces(text[start:], start)

    def _pieces(self, text: str, start: int) -> list[TokenId]:
        processor = self._later if start else self._first
        return list(processor.encode(text)) if text else []

    def decode(self, ids: Sequence[TokenId], *, skip_special: bool = True) -> str:
        """As Tokenizer.decode."""
        check_ids(ids, self.vocab_size)
        hidden = self._special_ids if skip_special else frozenset()
        pieces = (self.token_bytes(number) for number in ids if number not in hidden)
        return join_text(pieces, drop_space=self._drop_space)

    def token_bytes(self, token_id: TokenId) -> bytes:
        """As Tokenizer.token_bytes."""
        if token_id in self._added:
            return self._added[token_id].encode()
        if not 0 <= token_id < self._size:
            return b""
        piece = self._first.id_to_piece(token_id)
        return piece.encode() if token_id in self._special_ids else byte_fallback(piece)


def _load(path: Path, proto: bytes) -> SentencePieceProcessor:
    if _TIKTOKEN_LINE.match(proto):
        raise ModelError(
            f"{path} is a tiktoken list of tokens, not a SentencePiece model; "
            "put the tokenizer.json of the same model into the folder"
        )
    try:
        if not proto:
            raise RuntimeError("the file is empty")
        return SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ModelError(
            f"{path} is not a SentencePiece model ({error}); it may be cut short, fetch it again"
        ) from None


def _adds_space(processor: SentencePieceProcessor) -> bool:
    """Whether encoding puts a space in front, so that decoding must take one away."""
    ids = processor.encode("a")
    return bool(ids) and processor.id_to_piece(ids[0]).startswith("\u2581")


def _spellings(
    processor: SentencePieceProcessor, files: TokenizerFiles
) -> tuple[dict[str, TokenId], dict[str, TokenId]]:
    """Spelling -> id of the special tokens, and of all tokens that are cut out of the text."""
    special = dict(_control_pieces(processor))
    added = {token.content: number for number, token in files.added.items()}
    marked = {text: added[text] for text in files.specials() if text in added}
    known = _named_pieces(processor, files, added)
    return special | known | marked, special | known | added


def _control_pieces(processor: SentencePieceProcessor) -> Iterator[tuple[str, TokenId]]:
    for number in range(processor.vocab_size()):
        if processor.is_control(number) or processor.is_unknown(number):
            yield processor.id_to_piece(number), number


def _named_pieces(
    processor: SentencePieceProcessor, files: TokenizerFiles, added: Mapping[str, TokenId]
) -> dict[str, TokenId]:
    """Special spellings that are ordinary pieces of the model, such as a bos made by the user."""
    ids = {text: processor.piece_to_id(text) for text in files.specials() if text not in added}
    return {text: number for text, number in ids.items() if not processor.is_unknown(number)}


def _pattern(spellings: Mapping[str, TokenId] | list[str]) -> re.Pattern[str]:
    """Any of the spellings, the longest first; a pattern that never matches when there is none."""
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
