"""A stream of server-sent events, cut into whole ones, as an engine's bytes arrive.

What is signed is bytes, and NEAR AI's clients hash them with LF line ends, so the ends that the specification
also allows (CR, CRLF) are rewritten here, once. Comments are told apart: they are sent on, and not signed.
"""

from dataclasses import dataclass

from nearfield.node.errors import NodeError

MAX_EVENT = 16 << 20
"""Bytes of one event: an engine that never ends one would fill the memory."""
DONE = b"[DONE]"


@dataclass(frozen=True)
class Event:
    """One event. data: its payload, None in a comment; raw: its bytes with LF ends and the empty line after it."""

    data: bytes | None
    raw: bytes


def event(payload: bytes) -> Event:
    """The event that carries `payload`, which holds no line end."""
    return Event(payload, b"data: " + payload + b"\n\n")


class Splitter:
    """Cuts chunks of any size into events, in linear time."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._ended_in_cr = False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises NodeError (502) for one that is too long."""
        # A CR ends a line at once; the LF that may follow it in the next chunk belongs to the same end.
        data = chunk[1:] if self._ended_in_cr and chunk.startswith(b"\n") else chunk
        self._ended_in_cr = chunk.endswith(b"\r") or (self._ended_in_cr and not chunk)
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._rest += data
        found = []
        start = 0
        while (end := self._rest.find(b"\n\n", max(start, self._searched))) >= 0:
            if block := bytes(self._rest[start:end]).strip(b"\n"):
                found.extend(_events(block))
            start = end + 2
            self._searched = start
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - 1)
        if len(self._rest) > MAX_EVENT:
            raise NodeError(502, "the engine sent an event without an end")
        return found


def _events(block: bytes) -> list[Event]:
    """A block's comment and its event, each where there is one."""
    lines = block.split(b"\n")
    comments = [line for line in lines if line.startswith(b":")]
    others = [line for line in lines if line and not line.startswith(b":")]
    found = []
    if comments:
        found.append(Event(None, b"\n".join(comments) + b"\n\n"))
    if others:
        payload = b"\n".join(_value(line) for line in others if line.partition(b":")[0] == b"data")
        found.append(Event(payload, b"\n".join(others) + b"\n\n"))
    return found


def _value(line: bytes) -> bytes:
    return line.partition(b":")[2].removeprefix(b" ")
