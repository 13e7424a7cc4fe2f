"""Vocabularies that the `tokenizers` library runs: tokenizer.json, or vocab.json with merges.txt.

Encoding is the library's own. Decoding is ours (see token_text), since the library's byte fallback
turns a whole run of bytes into U+FFFD when one of them is wrong, which can not be done as a stream.
Whether special spellings are read from text is a switch on the library's object; two objects that
share one vocabulary stand in for it, so that threads never flip it under each other.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from nearfield.core.errors import ModelError
from nearfield.core.types import TokenId
from nearfield.models.token_text import byte_fallback, byte_level, check_ids, check_text, join_text
from nearfield.models.tokenizer_files import MAX_VOCABULARY_BYTES, TokenizerFiles, read_bytes

_QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE_DECODERS = {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}


class BytePairTokenizer:
    """A Tokenizer over an object of the `tokenizers` library."""

    def __init__(self, path: Path, library: Tokenizer, files: TokenizerFiles) -> None:
        library.no_truncation()
        library.no_padding()
        self._bytes_of, self._drop_space = _spelling(path, library.decoder)
        self._added = library.get_added_tokens_decoder()
        self._special_ids = frozenset(number for number, token in self._added.items() if token.special)
        self._parsing, self._plain = library, _plain_twin(library, self._added)
        self.special_tokens = tuple(self._added[number].content for number in sorted(self._special_ids))
        self.vocab_size = max(library.get_vocab().values(), default=-1) + 1
        self.bos_id, self.eos_ids = files.ends(library.token_to_id)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[TokenId]:
        """As Tokenizer.encode."""
        check_text(text)
        library = self._parsing if parse_special else self._plain
        return library.encode(text, add_special_tokens=add_special).ids

    def decode(self, ids: Sequence[TokenId], *, skip_special: bool = True) -> str:
        """As Tokenizer.decode."""
        check_ids(ids, self.vocab_size)
        hidden = self._special_ids if skip_special else frozenset()
        pieces = (self.token_bytes(number) for number in ids if number not in hidden)
        return join_text(pieces, drop_space=self._drop_space)

    def token_bytes(self, token_id: TokenId) -> bytes:
        """As Tokenizer.token_bytes."""
        if token_id in self._added:
            return self._added[token_id].content.encode()
        token = self._parsing.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        return b"" if token is None else self._bytes_of(token)


def load_tokenizer_json(path: Path, files: TokenizerFiles) -> BytePairTokenizer:
    """Load a tokenizer.json. Raises ModelError."""
    data = read_bytes(path, MAX_VOCABULARY_BYTES)
    try:
        library = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"{path} is not a tokenizer ({error}); it may be cut short or made for a newer `tokenizers` "
            "library: fetch it again, or update the library"
        ) from None
    return BytePairTokenizer(path, library, files)


def load_vocab_and_merges(folder: Path, files: TokenizerFiles) -> BytePairTokenizer:
    """Build the byte-level BPE of GPT-2, or of Qwen2, from vocab.json and merges.txt. Raises ModelError."""
    library = Tokenizer(_read_bpe(folder / "vocab.json", folder / "merges.txt"))
    spaced = files.flag("add_prefix_space", False)
    if files.config.get("tokenizer_class") in _QWEN2_CLASSES:
        library.normalizer = normalizers.NFC()
        library.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=False),
        ])
    else:
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    library.decoder = decoders.ByteLevel()
    _add_tokens(folder, library, files)
    if files.flag("add_bos_token", False) and "bos_token" in files.named:
        library.post_processor = _bos_first(library, files.named["bos_token"])
    return BytePairTokenizer(folder, library, files)


def _read_bpe(vocab: Path, merges: Path) -> BPE:
    words = read_bytes(vocab, MAX_VOCABULARY_BYTES)
    lines = read_bytes(merges, MAX_VOCABULARY_BYTES)
    try:
        rows = lines.decode().split("\n")
        return BPE(json.loads(words), [_pair(row) for row in rows if row and not row.startswith("#version")])
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"{vocab} and {merges.name} do not make a vocabulary ({error}); "
            "one may be cut short or from another model: fetch both again"
        ) from None


def _pair(row: str) -> tuple[str, str]:
    left, right = row.rstrip("\r").split(" ")
    return left, right


def _add_tokens(folder: Path, library: Tokenizer, files: TokenizerFiles) -> None:
    """Add the folder's extra tokens; the library numbers them itself, so the numbers are compared."""
    for number, token in files.added.items():
        library.add_tokens([token])
        given = library.token_to_id(token.content)
        if given != number:
            raise ModelError(
                f"{folder}: added token {token.content!r} should have id {number}, but the vocabulary gives "
                f"it {given}; vocab.json is cut short or of another model"
            )
    known = {token.content for token in files.added.values()}
    rest = [text for text in files.specials() if text not in known]
    library.add_tokens([AddedToken(text, special=True, normalized=False) for text in rest])


def _bos_first(library: Tokenizer, bos: str) -> processors.TemplateProcessing:
    number = library.token_to_id(bos)
    return processors.TemplateProcessing(single=[bos, "$A"], special_tokens=[(bos, number)])


def _plain_twin(library: Tokenizer, added: Mapping[TokenId, AddedToken]) -> Tokenizer:
    """The same tokenizer over the same vocabulary in memory, reading special spellings as plain text."""
    twin = Tokenizer(library.model)
    twin.normalizer, twin.pre_tokenizer = library.normalizer, library.pre_tokenizer
    twin.post_processor, twin.decoder = library.post_processor, library.decoder
    twin.add_tokens([added[number] for number in sorted(added)])
    twin.encode_special_tokens = True
    return twin


def _spelling(path: Path, decoder: decoders.Decoder | None) -> tuple[Callable[[str], bytes], bool]:
    """How the vocabulary spells bytes, and whether decoding takes one space away from the front."""
    state = {} if decoder is None else json.loads(decoder.__getstate__())
    steps = {step["type"]: step for step in state.get("decoders", [state] if state else [])}
    if "ByteLevel" in steps:
        return byte_level, False
    replace = steps.get("Replace", {"pattern": {"String": "\u2581"}, "content": " "})
    known = steps and steps.keys() <= _SPACE_DECODERS
    if not known or (replace["pattern"], replace["content"]) != ({"String": "\u2581"}, " "):
        raise ModelError(
            f"{path} spells its tokens in a way that is not supported (decoder {sorted(steps) or 'absent'}); "
            "supported are byte-level BPE and the SentencePiece style with U+2581 for a space"
        )
    strip = steps.get("Strip", {})
    spaced = steps.get("Metaspace", {}).get("prepend_scheme", "never") != "never"
    return byte_fallback, spaced or bool(strip.get("content") == " " and strip.get("start"))
