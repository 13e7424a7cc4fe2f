"""An engine's answer on its way to the client: sealed, counted, hashed as it is sent, settled, and signed when whole.

The kind is chosen when the answer begins. A stream passes event by event, at the client's pace; before its
`data: [DONE]` leaves, its usage is in the ledger, so that what a client has seen end is never lost. A JSON body is
held until it is whole, for the same reason. Anything but 200 passes as it is: not signed, not charged.
"""

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import orjson
from starlette.types import Message, Send

from nearfield.node.errors import NodeError
from nearfield.node.settlement import Settlement
from nearfield.node.sse import DONE, Event, Splitter, event
from nearfield.node.usage import new_id
from nearfield.node.wire import Headers, read_object, send_error, send_json

MAX_JSON = 64 << 20
MAX_ID = 128
WITHHELD = "the engine refused the request; its words are withheld, because the request was encrypted"


class Sealer(Protocol):
    """Encrypts for the client of one request (encryption.Session)."""

    def seal_response(self, body: dict[str, Any]) -> dict[str, Any]: ...
    def seal_chunk(self, chunk: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Outlet:
    """Where an answer goes, and what it passes on the way."""

    send: Send
    settlement: Settlement
    sealer: Sealer | None


class Kind(Protocol):
    """What an answer does with its body. `started`: whether the client has a status already."""

    started: bool

    async def body(self, chunk: bytes, more: bool) -> None:
        """Take the engine's next bytes. Raises NodeError when they can not go out."""

    async def fail(self, error: NodeError) -> None:
        """Tell the client, whose answer will not become whole."""


class Answer:
    """Takes the ASGI messages of one engine's answer, and ends in a way that its client can tell from a whole one."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._kind: Kind | None = None
        self._whole = False
        self.failed: asyncio.Future[NodeError] = asyncio.get_running_loop().create_future()

    async def take(self, message: Message) -> None:
        """What the engine hands to ASGI's `send`. Where that can not go out, `failed` says why, and this call never
        returns: an error raised here would be the engine's to explain."""
        try:
            await self._take(message)
        except NodeError as error:
            self.failed.set_result(error)
            await asyncio.get_running_loop().create_future()

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._kind = await self._begin(message["status"], [(n.lower(), v) for n, v in message["headers"]])
        elif message["type"] == "http.response.body" and self._kind is not None:
            more = message.get("more_body", False)
            await self._kind.body(message.get("body", b""), more)
            self._whole = self._whole or not more

    def check_whole(self) -> None:
        """Raises NodeError (502) when the engine has returned before its answer was whole."""
        if not self._whole:
            raise NodeError(502, "the engine broke off before its answer was whole; try again")

    async def fail(self, error: NodeError) -> None:
        """Tell the client. Where it has a status already, its connection is cut: the answer is left unfinished."""
        if self._kind is None:
            await send_error(self._outlet.send, error)
        else:
            await self._kind.fail(error)

    async def _begin(self, status: int, headers: Headers) -> Kind:
        if status != 200:
            # Who asks again at once finds the money that was set aside.
            await self._outlet.settlement.close()
            return await _Refusal.begin(self._outlet, status, headers)
        kind = next((value for name, value in headers if name == b"content-type"), b"").partition(b";")[0].strip()
        headers = [line for line in headers if line[0] != b"content-length"]
        if kind == b"text/event-stream":
            return await _Stream.begin(self._outlet, headers)
        return _Json(self._outlet, headers)


class _Refusal:
    """An error of the engine: its own words, or ours where they could quote what was encrypted."""

    def __init__(self, outlet: Outlet, status: int) -> None:
        self._outlet, self._status, self.started = outlet, status, True

    @classmethod
    async def begin(cls, outlet: Outlet, status: int, headers: Headers) -> "_Refusal":
        if outlet.sealer is None:
            await outlet.send({"type": "http.response.start", "status": status, "headers": headers})
        else:
            kept = {name.decode(): value.decode("latin-1") for name, value in headers if name == b"retry-after"}
            await send_json(outlet.send, status, NodeError(status, WITHHELD).body(), kept)
        return cls(outlet, status)

    async def body(self, chunk: bytes, more: bool) -> None:
        if self._outlet.sealer is None:
            await self._outlet.send(_chunk(chunk, more))

    async def fail(self, error: NodeError) -> None:
        """The status says it already."""


class _Json:
    """A whole answer: nothing of it leaves before its usage is in the ledger."""

    def __init__(self, outlet: Outlet, headers: Headers) -> None:
        self._outlet, self._headers, self.started = outlet, headers, False
        self._chunks: list[bytes] = []
        self._size = 0

    async def body(self, chunk: bytes, more: bool) -> None:
        self._size += len(chunk)
        if self._size > MAX_JSON:
            raise NodeError(502, f"the engine's answer is larger than {MAX_JSON} bytes")
        self._chunks.append(chunk)
        if not more:
            await self._finish(b"".join(self._chunks))

    async def fail(self, error: NodeError) -> None:
        if not self.started:
            await send_error(self._outlet.send, error)

    async def _finish(self, data: bytes) -> None:
        body = _parsed(data)
        usage = _usage(body)
        if usage is None:
            raise NodeError(502, "the engine's answer has no usage, without which it can not be counted")
        if not _is_id(body.get("id")):
            body["id"] = new_id()
            data = orjson.dumps(body)
        if self._outlet.sealer is not None:
            data = orjson.dumps(self._outlet.sealer.seal_response(body))
        self._outlet.settlement.saw(body["id"], usage, answers=0, held=True)
        await self._outlet.settlement.whole(sha256(data).hexdigest())
        self.started = True
        length = (b"content-length", str(len(data)).encode())
        await self._outlet.send({"type": "http.response.start", "status": 200, "headers": [*self._headers, length]})
        await self._outlet.send(_chunk(data, more=False))


class _Stream:
    """Events as they come. Comments pass unhashed; nothing passes after [DONE]."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet, self.started = outlet, True
        self._splitter, self._hash = Splitter(), sha256()
        self._id = ""
        self._done = self._failed = False

    @classmethod
    async def begin(cls, outlet: Outlet, headers: Headers) -> "_Stream":
        await outlet.send({"type": "http.response.start", "status": 200, "headers": headers})
        return cls(outlet)

    async def body(self, chunk: bytes, more: bool) -> None:
        sent: list[bytes] = []
        for item in self._splitter.feed(chunk):
            if self._done:
                break
            if item.data == DONE:
                # What came before leaves first: the ledger takes a moment.
                await self._write(sent)
                await self._finish()
                sent = [event(DONE).raw]
            elif item.data is None:
                sent.append(item.raw)
            else:
                try:
                    sent.append(self._pass(item))
                except NodeError:
                    await self._write(sent)     # it is counted
                    raise
        await self._write(sent)
        if not more:
            if not self._done:
                raise NodeError(502, "the engine ended its stream before [DONE]; what it sent is not signed")
            await self._outlet.send(_chunk(b"", more=False))

    async def fail(self, error: NodeError) -> None:
        if not self._done:
            await self._write([event(orjson.dumps(error.body())).raw])

    def _pass(self, item: Event) -> bytes:
        """The bytes to send for an event, hashed and counted."""
        chunk = _parsed(item.data or b"")
        raw = item.raw
        if "error" in chunk:
            self._failed = True
            return event(orjson.dumps(NodeError(502, WITHHELD).body())).raw if self._outlet.sealer else raw
        if not _is_id(chunk.get("id")):
            # An engine that gives no id gets one: the signature is asked for by it.
            chunk["id"] = self._id or new_id()
            raw = event(orjson.dumps(chunk)).raw
        self._id = self._id or chunk["id"]
        self._outlet.settlement.saw(self._id, _usage(chunk), _answers(chunk))
        if self._outlet.sealer is not None:
            raw = event(orjson.dumps(self._outlet.sealer.seal_chunk(chunk))).raw
        self._hash.update(raw)
        return raw

    async def _finish(self) -> None:
        if not self._failed:
            self._hash.update(event(DONE).raw)
            await self._outlet.settlement.whole(self._hash.hexdigest())
        self._done = True

    async def _write(self, events: list[bytes]) -> None:
        if events:
            await self._outlet.send(_chunk(b"".join(events), more=True))


def _chunk(data: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        return read_object(data)
    except NodeError:
        raise NodeError(502, "the engine's answer is not a JSON object") from None


def _usage(body: dict[str, Any]) -> dict[str, Any] | None:
    usage = body.get("usage")
    if usage is not None and not isinstance(usage, dict):
        raise NodeError(502, "the engine's usage is not an object")
    return usage


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and value.isprintable()


def _answers(chunk: dict[str, Any]) -> int:
    """How many choices of a chunk carry text, reasoning or calls: each is at least one token."""
    choices = chunk.get("choices")
    found = 0
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            delta = choice.get("delta")
            parts = [choice.get("text"), *(delta.values() if isinstance(delta, dict) else ())]
            found += any(part for part in parts if part != "assistant")
    return found
