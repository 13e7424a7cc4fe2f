"""`nearfield chat`: a conversation in the terminal, or line by line from a pipe.

Answers go to stdout, everything else to stderr, so that a pipe carries answers alone. Each turn sends
the whole conversation; the prefix cache finds what it has already computed.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from nearfield.cli.options import add_engine, add_model, add_sampling
from nearfield.core.errors import ModelError, NearfieldError, nearest
from nearfield.core.request import Output

if TYPE_CHECKING:
    from nearfield.cli.session import Session

HELP = "talk to a model"
COMMANDS_OF_CHAT = ("/system", "/reset", "/quit")
GREETING = "/system TEXT sets the system prompt, /reset starts anew, /quit leaves; Ctrl-C stops an answer."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system prompt to start with")
    add_sampling(parser, max_tokens=512)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    from nearfield.cli.session import Session

    session = Session.open(args)
    loaded = session.llm.loaded
    if loaded.template is None:
        raise ModelError(f"{loaded.folder}: has no chat template; `nearfield generate` continues plain text")
    chat = Chat(session, args.system)
    if sys.stdin.isatty():
        _note(f"{loaded.name}. {GREETING}")
    for line in _lines():
        if not chat.handle(line.strip()):
            break
    return 0


@dataclass
class Chat:
    """A conversation: the system prompt and the turns so far."""

    session: "Session"
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def handle(self, line: str) -> bool:
        """Do what a line of input says; false when it says to leave."""
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/reset":
            self.turns.clear()
        elif command == "/system":
            self.system = rest.strip() or None
            self.turns.clear()
        elif command.startswith("/"):
            _note(f"unknown command {command!r}{nearest(command, COMMANDS_OF_CHAT)}; "
                  f"there are {', '.join(COMMANDS_OF_CHAT)}")
        elif line:
            self.ask(line)
        return True

    def ask(self, text: str) -> None:
        """Print the answer to `text` as it comes, and remember both."""
        self.turns.append({"role": "user", "content": text})
        try:
            answer = self._answer()
        except NearfieldError as error:
            self.turns.pop()
            _note(f"error: {error} (/reset starts anew)")
            return
        self.turns.append({"role": "assistant", "content": answer})

    def _answer(self) -> str:
        first = [{"role": "system", "content": self.system}] if self.system else []
        prompt = self.session.llm.encode_chat([*first, *self.turns])
        timer = Timer()
        pieces = []
        with _interrupt() as interrupted, closing(self.session.stream(prompt)) as outputs:
            for output in outputs:
                timer.count(output)
                pieces.append(output.text)
                print(output.text, end="", flush=True)
                if interrupted.is_set():
                    break
        print(flush=True)
        _note(timer.line())
        return "".join(pieces)


class Timer:
    """The figures of one answer, for the line under it."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first: float | None = None
        self._tokens = self._cached = self._prompt = 0

    def count(self, output: Output) -> None:
        """Take in what a step brought."""
        self._tokens += len(output.token_ids)
        self._cached, self._prompt = output.cached_tokens, output.prompt_tokens
        if self._first is None and output.token_ids:
            self._first = time.perf_counter()

    def line(self) -> str:
        """First token after ..., tokens a second after it, prompt tokens that were in the cache."""
        if self._first is None:
            return "[no token]"
        rate = (self._tokens - 1) / max(time.perf_counter() - self._first, 1e-9)
        ttft = self._first - self._start
        return (f"[first token {ttft:.3f} s, {self._tokens} tokens, {rate:.1f} tokens/s, "
                f"{self._cached} of {self._prompt} prompt tokens cached]")


@contextmanager
def _interrupt() -> Iterator[Event]:
    """Ctrl-C sets the event. An exception in the middle of a step would leave the engine half-way."""
    event = Event()
    previous = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)


def _lines() -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    # Importing readline gives input() editing and a history.
    import readline  # noqa: F401

    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            _note("\n/quit or Ctrl-D leaves")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
