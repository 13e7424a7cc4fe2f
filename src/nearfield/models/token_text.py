"""What the tokenizers share: from a token's spelling to its bytes, and from bytes to text.

Vocabularies spell bytes in two ways: byte-level BPE writes each byte as one printable character,
SentencePiece writes a space as U+2581 and a lone byte as <0xXX>. Text is always the UTF-8 reading
of the bytes laid end to end, with U+FFFD for what is not UTF-8. That one rule, rather than each
library's own decoder, makes decoding incremental: a token adds its bytes, whatever comes next.
"""

import re
from collections.abc import Iterable, Sequence

from nearfield.core.errors import InvalidRequestError
from nearfield.core.types import TokenId

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """The character byte-level BPE writes for each byte: itself where it is printable, else 256 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def byte_level(token: str) -> bytes:
    """The bytes of a byte-level BPE token; one that uses other characters is taken as it is spelt."""
    try:
        return bytes([_ALPHABET[char] for char in token])
    except KeyError:
        return token.encode()


def byte_fallback(token: str) -> bytes:
    """The bytes of a SentencePiece token: U+2581 is a space, <0xXX> is that byte."""
    lone = _BYTE_PIECE.fullmatch(token)
    return bytes([int(lone[1], 16)]) if lone else token.replace("\u2581", " ").encode()


def join_text(pieces: Iterable[bytes], *, drop_space: bool) -> str:
    """The text of tokens' bytes in order; `drop_space` takes away the one space that encoding put first."""
    data = b"".join(pieces)
    if drop_space:
        data = data.removeprefix(b" ")
    return data.decode("utf-8", "replace")


def check_text(text: str) -> None:
    """Raise InvalidRequestError when the text holds a lone surrogate, which no UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}; "
            "send whole Unicode characters"
        ) from None


def check_ids(ids: Sequence[TokenId], vocab_size: int) -> None:
    """Raise InvalidRequestError for the first id that is outside the vocabulary."""
    for place, token_id in enumerate(ids):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"token id {token_id} at place {place} is outside the vocabulary (0 to {vocab_size - 1})"
            )
