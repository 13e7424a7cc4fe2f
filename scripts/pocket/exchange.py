"""What a generator hands over: an exchange, the smallest piece of a chat that can be graded."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

Message = dict[str, Any]
"""A chat message as the chat template takes it: role, content, perhaps tool_calls."""

Tool = dict[str, Any]
"""A tool in OpenAI's shape: {"type": "function", "function": {...}}."""

HELD_SHARE = 10
"""One key in so many is held out of training."""


@dataclass(frozen=True)
class Exchange:
    """Messages that end with an assistant's turn, the one that is graded; `kind` names the accuracy it counts for.

    `facts` are words that a good story must hold: the hero's name first. An exchange with neither system
    nor tools may stand in the middle of a longer chat.
    """

    kind: str
    messages: tuple[Message, ...]
    system: str | None = None
    tools: tuple[Tool, ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def answer(self) -> Message:
        return self.messages[-1]

    @property
    def free(self) -> bool:
        return self.system is None and not self.tools


Generator = Callable[[Random, bool], Exchange]
"""Makes an exchange; with True it is one that training never sees."""


def is_held(key: str) -> bool:
    """Whether what `key` names belongs to the held-out part: a fixed property of the key, not of a run."""
    return crc32(key.encode()) % HELD_SHARE == 0


def draw(held: bool, propose: Callable[[], tuple[str, Exchange]]) -> Exchange:
    """Propose until the key falls on the wanted side of the split."""
    while True:
        key, exchange = propose()
        if is_held(key) == held:
            return exchange


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def ask(kind: str, question: str, answer: str) -> Exchange:
    """One question, one answer."""
    return Exchange(kind, (user(question), assistant(answer)))
