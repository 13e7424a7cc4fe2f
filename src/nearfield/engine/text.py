"""The text of one answer as its tokens arrive: whole characters only, cut at the first stop string.

A token adds its bytes to the answer and the bytes are read as UTF-8 as they come, so a push costs
the same however long the answer is, and at most three bytes wait for the rest of their character.
The common way, decoding a window of ids and comparing texts, re-reads tokens and has to guess
whether U+FFFD at the end is final. Stop strings are matched one character at a time with the
Knuth-Morris-Pratt automaton, so where the tokens' borders fall makes no difference.
"""

from codecs import getincrementaldecoder

from nearfield.core.request import SamplingParams
from nearfield.core.types import TokenId
from nearfield.models.tokenizer import Tokenizer


class TextStream:
    """Incremental detokenisation and stop strings of one answer.

    The pieces that push() and finish() return add up to tokenizer.decode(all ids), cut at the
    stop string that is complete first (of two that end together, the longer). Ids without a
    spelling, which a model with a padded vocabulary can make, add nothing. A stop string that is
    complete before the token number `params.min_tokens` is text like any other.
    `stopped` is the stop string that was met, or None.

    `after` is the prompt's last token. Where that is text, the answer goes on with it, and keeps the
    space that decoding by itself takes away: prompt and answer read as one.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, after: TokenId | None = None) -> None:
        self._tokenizer = tokenizer
        self._params = params
        self._utf8 = getincrementaldecoder("utf-8")("replace")
        self._at_start = not self._is_text(after)
        self._tokens = 0
        self._stops = [_StopMatcher(stop) for stop in params.stop]
        self._held = ""
        self.stopped: str | None = None

    def push(self, token_id: TokenId) -> str:
        """Take the next token; return the text that can be shown now, "" after a stop string."""
        self._tokens += 1
        return self._show(self._utf8.decode(self._bytes_of(token_id)))

    def finish(self) -> str:
        """The answer is over: return the text that was held back."""
        text = self._show(self._utf8.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _bytes_of(self, token_id: TokenId) -> bytes:
        """What the token adds to the answer: nothing when it is special and those are hidden."""
        if not 0 <= token_id < self._tokenizer.vocab_size:
            return b""
        data = self._tokenizer.token_bytes(token_id)
        if self._params.skip_special_tokens and self._is_special(token_id):
            return b""
        if self._at_start and data:
            self._at_start = False
            return self._without_first_space(token_id, data)
        return data

    def _is_text(self, token_id: TokenId | None) -> bool:
        if token_id is None or token_id >= self._tokenizer.vocab_size:
            return False
        return bool(self._tokenizer.decode([token_id]))

    def _is_special(self, token_id: TokenId) -> bool:
        """Decoding hides it, and shows it when asked to."""
        decode = self._tokenizer.decode
        return not decode([token_id]) and bool(decode([token_id], skip_special=False))

    def _without_first_space(self, token_id: TokenId, data: bytes) -> bytes:
        """Decoding takes away the space that encoding put first; only the answer's first token shows it."""
        shown = self._tokenizer.decode([token_id], skip_special=False)
        spaced = data.startswith(b" ") and shown == data[1:].decode("utf-8", "replace")
        return data[1:] if spaced else data

    def _show(self, text: str) -> str:
        """Pass the text on, save what may be the beginning of a stop string."""
        if self.stopped is not None:
            return ""
        if not self._stops:
            return text
        waiting = self._held + text
        end = self._first_stop(text)
        if self.stopped is not None:
            whole = len(self._held) + end
            self._held = ""
            return waiting[: whole if self._params.include_stop_str_in_output else whole - len(self.stopped)]
        hold = max(matcher.matched for matcher in self._stops)
        cut = len(waiting) - hold
        self._held = waiting[cut:]
        return waiting[:cut]

    def _first_stop(self, text: str) -> int:
        """Feed the matchers; at a stop string set `stopped` and return where it ends in `text`."""
        for place, char in enumerate(text, 1):
            complete = [matcher.stop for matcher in self._stops if matcher.feed(char)]
            if complete and self._tokens >= self._params.min_tokens:
                self.stopped = max(complete, key=len)
                return place
        return len(text)


class _StopMatcher:
    """The Knuth-Morris-Pratt automaton of one stop string.

    `matched` characters at the end of the text so far are the beginning of the stop string, and no
    longer beginning fits. Cost per character is constant over a text.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._shorter = _borders(stop)

    def feed(self, char: str) -> bool:
        """Take the text's next character; True when it completes the stop string."""
        self.matched = _extend(self.stop, self._shorter, self.matched, char)
        if self.matched < len(self.stop):
            return False
        self.matched = self._shorter[-1]
        return True


def _extend(stop: str, shorter: list[int], matched: int, char: str) -> int:
    """The longest beginning of `stop` that ends the text, once `char` follows a match of `matched`."""
    while matched and stop[matched] != char:
        matched = shorter[matched - 1]
    return matched + 1 if stop[matched] == char else 0


def _borders(stop: str) -> list[int]:
    """For each beginning of `stop`, the length of its longest proper beginning that also ends it."""
    borders = [0]
    for char in stop[1:]:
        borders.append(_extend(stop, borders, borders[-1], char))
    return borders
