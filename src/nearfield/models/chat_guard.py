"""Keeps what users write from acting as control tokens of a chat.

A rendered chat is one text in which the template's own <|im_end|> and one that a user typed look
the same. So each special spelling inside user-supplied strings, and each end of a string that
could be the first half of one, becomes a private-use character before rendering. In the rendering
the spellings left are the template's own; the text between them is restored and encoded as text.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nearfield.core.errors import InvalidRequestError
from nearfield.core.types import TokenId
from nearfield.models.tokenizer import Tokenizer

_PRIVATE_USE = range(0xE000, 0xF900)

# Templates compare these with words of their own, so an end that looks like a control token stays.
_KEYWORD_KEYS = frozenset(("role", "type"))


@dataclass(frozen=True)
class Spellings:
    """The special spellings of a tokenizer. `whole` finds one; `halves` are their proper beginnings."""

    whole: re.Pattern[str]
    halves: frozenset[str]
    longest: int

    def half_at_end(self, text: str) -> str:
        """The longest end of `text` that begins a special spelling, or ""."""
        longest = min(self.longest, len(text))
        return next((text[-n:] for n in range(longest, 0, -1) if text[-n:] in self.halves), "")


@lru_cache(maxsize=4)
def find_spellings(specials: tuple[str, ...]) -> Spellings:
    """Prepare to look for the special spellings of a tokenizer."""
    longest_first = sorted(specials, key=len, reverse=True)
    whole = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
    halves = frozenset(text[:n] for text in specials for n in range(1, len(text)))
    return Spellings(whole, halves, max(map(len, halves), default=0))


class ChatGuard:
    """Hides the special spellings in one chat's strings, and encodes its rendering.

    Raises InvalidRequestError when the chat uses up all private-use characters.
    """

    def __init__(self, spellings: Spellings, chat: Any) -> None:
        self._spellings = spellings
        strings = list(_strings(chat))
        found = {text for string in strings for text in spellings.whole.findall(string)}
        found |= {half for string in strings if (half := spellings.half_at_end(string))}
        self._marks = _marks(sorted(found), strings)
        self._texts = {ord(mark): text for text, mark in self._marks.items()}

    def hide(self, chat: Any) -> Any:
        """The chat with marks in place of special spellings."""
        return copy_json(chat, self._mark)

    def _mark(self, text: str, key: str) -> str:
        half = "" if key in _KEYWORD_KEYS else self._spellings.half_at_end(text)
        body = text.removesuffix(half) if half else text
        return self._spellings.whole.sub(lambda match: self._marks[match.group()], body) + self._marks.get(half, "")

    def encode(self, tokenizer: Tokenizer, rendering: str) -> list[TokenId]:
        """The ids of the rendering of a hidden chat."""
        for mark in self._marks.values():
            rendering = rendering.replace(json.dumps(mark)[1:-1], mark)
        pieces = self._spellings.whole.split(rendering)
        text = rendering.translate(self._texts)
        if self._spellings.whole.findall(text) == pieces[1::2]:
            return tokenizer.encode(text, add_special=False)
        return self._encode_pieces(tokenizer, pieces)

    def _encode_pieces(self, tokenizer: Tokenizer, pieces: Sequence[str]) -> list[TokenId]:
        """Encode texts (even places) and the template's special tokens (odd places).

        Texts without a mark stay together with the tokens around them, so that they are cut as ever.
        """
        ids: list[TokenId] = []
        run = ""
        for place, piece in enumerate(pieces):
            text = piece.translate(self._texts)
            if text == piece:
                run += piece
                continue
            ids += tokenizer.encode(run, add_special=False) if run else []
            run = ""
            ids += _encode_after_special(tokenizer, text) if place else _encode_plain(tokenizer, text)
        return ids + (tokenizer.encode(run, add_special=False) if run else [])


def copy_json(value: Any, change: Callable[[str, str], str], key: str = "") -> Any:
    """A copy of a JSON value with `change(text, key)` in place of each string and, with key "", each key.

    Raises InvalidRequestError for anything that JSON does not have.
    """
    if isinstance(value, str):
        return change(str(value), key)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {copy_json(name, change): copy_json(entry, change, str(name)) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy_json(entry, change, key) for entry in value]
    raise InvalidRequestError(
        f"messages, tools and template variables are JSON values; {type(value).__name__} is not one", "messages"
    )


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _strings(name)
            yield from _strings(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _strings(entry)


def _marks(texts: Sequence[str], strings: Sequence[str]) -> dict[str, str]:
    """A private-use character for each text, none of which the chat uses itself."""
    if not texts:
        return {}
    used = set().union(*strings)
    free = [chr(code) for code in _PRIVATE_USE if chr(code) not in used]
    if len(free) < len(texts):
        raise InvalidRequestError(
            "the messages use too many private-use characters (U+E000 to U+F8FF) beside special tokens; "
            "leave some out",
            "messages",
        )
    return dict(zip(texts, free, strict=False))


def _encode_plain(tokenizer: Tokenizer, text: str) -> list[TokenId]:
    return tokenizer.encode(text, add_special=False, parse_special=False)


def _encode_after_special(tokenizer: Tokenizer, text: str) -> list[TokenId]:
    """Encode text that stands after a special token.

    Some vocabularies put a space before a text, but not before text after a special token. There
    the text is encoded behind a line break, whose ids are then taken away.
    """
    after_special = tokenizer.encode(tokenizer.special_tokens[0] + "a", add_special=False)[1:]
    if after_special == _encode_plain(tokenizer, "a"):
        return _encode_plain(tokenizer, text)
    lead, behind = _encode_plain(tokenizer, "\n"), _encode_plain(tokenizer, "\n" + text)
    return behind[len(lead) :] if behind[: len(lead)] == lead else _encode_plain(tokenizer, text)
