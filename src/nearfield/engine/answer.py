"""The rules by which one answer goes on and ends: what may not come yet, what is shown, when it is over.

They know tokens alone, no engine: whoever checks an answer afterwards plays it through the same rules.
"""

from collections.abc import Collection
from dataclasses import dataclass

from nearfield.core.request import SamplingParams
from nearfield.core.types import FinishReason, TokenId
from nearfield.engine.text import TextStream


@dataclass(frozen=True)
class Taken:
    """What a token brought: text that can be shown now, why the answer is over (None: it goes on), and the stop
    string that ended it."""

    text: str
    reason: FinishReason | None
    stop_text: str | None


class AnswerRules:
    """An answer under `params` of at most `limit` tokens, which `eos` end. Without `text` it has none."""

    def __init__(self, params: SamplingParams, eos: Collection[TokenId], limit: int, text: TextStream | None) -> None:
        self._params, self._eos, self._limit, self._text = params, eos, limit, text
        self._count = 0

    def banned(self, count: int) -> tuple[TokenId, ...]:
        """The tokens that may not come after `count` tokens of the answer: before min_tokens none may end it."""
        return (*self._eos, *self._params.stop_token_ids) if count < self._params.min_tokens else ()

    def take(self, token: TokenId) -> Taken:
        """The answer's next token."""
        p, text, stopped = self._params, "", None
        self._count += 1
        ends = token in p.stop_token_ids or (token in self._eos and not p.ignore_eos)
        # A token that ends the answer brings no text, unless it is asked for.
        if self._text is not None and (not ends or (p.include_stop_str_in_output and token not in self._eos)):
            text = self._text.push(token)
        if self._text is not None:
            stopped = self._text.stopped
        reason = None
        if ends or stopped is not None:
            reason = FinishReason.STOP
        elif self._count >= self._limit:
            reason = FinishReason.LENGTH
        if reason is not None and self._text is not None:
            text += self._text.finish()
        return Taken(text, reason, stopped)
