"""Finds calls of tools in an answer: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

The text comes in pieces, from a model that may write anything: the search is linear, JSON is read by a
parser that bounds nesting, and what is not a call is handed on as text.
"""

from dataclasses import dataclass
from hashlib import sha256

import orjson

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Call:
    """A call of the tool `name`; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class ToolCallParser:
    """Splits one answer, as it grows, into content and calls. `found` is the number of calls so far.

    answer: what the answer is known by, in all the world: its calls have their ids of it, so that who takes the same
    calls out of the same answer again finds the same ids.
    """

    def __init__(self, answer: str) -> None:
        self.found = 0
        self._answer = answer
        self._inside = False
        self._held = ""
        self._searched = 0
        self._layout: str | None = None     # white space after a call, while nothing but it is there

    def push(self, text: str) -> tuple[str, list[Call]]:
        """The content and the calls that can be told apart now."""
        text = self._held + text
        shown: list[str] = []
        calls: list[Call] = []
        start, look = 0, self._searched
        while (at := text.find(tag := CLOSE if self._inside else OPEN, look)) >= 0:
            self._part(text[start:at], shown, calls)
            start = look = at + len(tag)
        shown.append(self._hold(text[start:]))
        return "".join(shown), calls

    def finish(self) -> str:
        """The held-back rest: a call that was never closed is content."""
        return self._content(OPEN + self._held if self._inside else self._held)

    def _part(self, text: str, shown: list[str], calls: list[Call]) -> None:
        """Take what stands before a tag, and cross that tag."""
        if not self._inside:
            shown.append(self._content(text))
        elif call := _read(text):
            name = sha256(f"{self._answer} {self.found}".encode()).hexdigest()[:24]
            calls.append(Call(f"call_{name}", *call))
            self.found += 1
            self._layout = ""
        else:
            shown.append(self._content(OPEN + text + CLOSE))
        self._inside = not self._inside

    def _hold(self, text: str) -> str:
        """Keep what can not be told apart yet; returns the content before it."""
        keep = len(text) if self._inside else _overlap(text, OPEN)
        self._held = text[len(text) - keep:]
        # The end of what was searched may be the beginning of a tag.
        self._searched = max(0, keep - len(CLOSE) + 1) if self._inside else 0
        return "" if self._inside else self._content(text[: len(text) - keep])

    def _content(self, text: str) -> str:
        """White space between and after calls is their layout, not the answer: it waits for what it stands before."""
        if self._layout is None:
            return text
        text, self._layout = self._layout + text, None
        if text.strip():
            return text
        self._layout = text
        return ""


def _overlap(text: str, tag: str) -> int:
    """The length of the longest end of `text` that begins `tag`."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)


def _read(text: str) -> tuple[str, str] | None:
    """A call's name and arguments."""
    try:
        call = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    if not isinstance(arguments, dict):
        return None
    return call["name"], orjson.dumps(arguments).decode()
