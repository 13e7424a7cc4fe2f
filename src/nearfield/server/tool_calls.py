"""Finds calls of tools in an answer: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

The text comes in pieces, from a model that may write anything: the search is linear, JSON is read by a
parser that bounds nesting, and what is not a call is handed on as text.
"""

import uuid
from dataclasses import dataclass

import orjson

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Call:
    """A call of the tool `name`; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class ToolCallParser:
    """Splits one answer, as it grows, into content and calls. `found` is the number of calls so far."""

    def __init__(self) -> None:
        self.found = 0
        self._inside = False
        self._held = ""
        self._searched = 0

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
        return OPEN + self._held if self._inside else self._content(self._held)

    def _part(self, text: str, shown: list[str], calls: list[Call]) -> None:
        """Take what stands before a tag, and cross that tag."""
        if not self._inside:
            shown.append(self._content(text))
        elif call := _read(text):
            calls.append(call)
            self.found += 1
        else:
            shown.append(OPEN + text + CLOSE)
        self._inside = not self._inside

    def _hold(self, text: str) -> str:
        """Keep what can not be told apart yet; returns the content before it."""
        keep = len(text) if self._inside else _overlap(text, OPEN)
        self._held = text[len(text) - keep:]
        # The end of what was searched may be the beginning of a tag.
        self._searched = max(0, keep - len(CLOSE) + 1) if self._inside else 0
        return "" if self._inside else self._content(text[: len(text) - keep])

    def _content(self, text: str) -> str:
        """White space between and after calls is their layout, not the answer."""
        return "" if self.found and not text.strip() else text


def _overlap(text: str, tag: str) -> int:
    """The length of the longest end of `text` that begins `tag`."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)


def _read(text: str) -> Call | None:
    try:
        call = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    if not isinstance(arguments, dict):
        return None
    return Call(f"call_{uuid.uuid4().hex[:24]}", call["name"], orjson.dumps(arguments).decode())
