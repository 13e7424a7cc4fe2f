"""Doubles around a node's exchange: an engine that plays bytes, a payment that writes a journal, and a client.

All write to one journal, so that a test can say in which order things happened.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from coincurve import PrivateKey
from nacl.signing import SigningKey
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearfield.node.arrears import Arrears
from nearfield.node.endpoints import Endpoint, Endpoints
from nearfield.node.errors import NodeError
from nearfield.node.identity import Identity
from nearfield.node.middleware import Node
from nearfield.node.parts import Parts
from nearfield.node.signing import SignatureStore
from nearfield.node.usage import Usage

MODEL = "org/model"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}}


def identity() -> Identity:
    """Keys that are the same in every run."""
    return Identity("node.testnet", SigningKey(bytes(range(32))), PrivateKey(bytes(range(1, 33))))


@dataclass
class Engine:
    """Answers POST with `status`, `kind` and `chunks`; a chunk that is an Event is waited for. `ends` says whether
    the last chunk is marked as such. /tokenize says `count` tokens, or 404 where that is None."""

    chunks: Sequence[bytes | asyncio.Event]
    kind: str = "application/json"
    status: int = 200
    ends: bool = True
    count: int | None = 7
    context: int | None = 100
    headers: Sequence[tuple[bytes, bytes]] = ()
    bodies: list[Any] = field(default_factory=list)
    seen: list[Mapping[bytes, bytes]] = field(default_factory=list)
    cancelled: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = orjson.loads((await receive()).get("body") or b"null")
        if scope["path"] == "/tokenize":
            found = {"count": self.count, "max_model_len": self.context}
            await _whole(send, 404 if self.count is None else 200, orjson.dumps(found))
            return
        self.bodies.append(body)
        self.seen.append(dict(scope["headers"]))
        try:
            await self._play(send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _play(self, send: Send) -> None:
        headers = [(b"Content-Type", self.kind.encode()), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for chunk in self.chunks:
            if isinstance(chunk, asyncio.Event):
                await chunk.wait()
            else:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.ends:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _whole(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass
class Till:
    """A payment: `affordable` tokens (None: no bound), and what became of each allowance, in `journal`."""

    journal: list[Any]
    affordable: int | None = None
    priced: bool = False
    refuse: NodeError | None = None
    known: bool = False

    async def authorise(self, headers: Mapping[str, str], prompt_tokens: int, answer_tokens: int | None) -> "Till":
        if self.refuse is not None:
            raise self.refuse
        self.journal.append(("authorised", prompt_tokens, answer_tokens))
        return self

    def tokens_affordable(self, prompt_tokens: int) -> int | None:
        return self.affordable

    def settle(self, usage: Usage) -> bool:
        self.journal.append(usage)
        return not self.known

    def renew(self) -> None:
        self.journal.append("renewed")

    def release(self) -> None:
        self.journal.append("released")


class Plain:
    """No encryption."""

    def session(self, headers: Mapping[str, str]) -> None:
        return None


class Anyone:
    """No keys."""

    def __bool__(self) -> bool:
        return False

    def tenant(self, authorization: bytes | None) -> str | None:
        return ""


@dataclass
class Answer:
    """What a client got: `whole` where the answer ended as HTTP wants."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    def json(self) -> Any:
        return orjson.loads(self.body)


class Stand:
    """A node over `engine`, and a client that sends raw bytes to it."""

    def __init__(self, engine: ASGIApp, till: Till | None = None, endpoints: Sequence[Endpoint] = ()) -> None:
        self.till = till or Till([])
        self.journal = self.till.journal
        self.signatures = SignatureStore(identity())
        self._engine, self._endpoints = engine, Endpoints(endpoints)
        self.use(Parts(MODEL, Anyone(), Plain(), self.till, self.signatures, {"prompt": "0.1"},
                       Arrears()))
        self.left: asyncio.Event | None = None
        self.on_chunk: Callable[[bytes], None] = lambda _chunk: None

    def use(self, parts: Parts) -> None:
        """Serve with these."""
        self.parts, self.node = parts, Node(self._engine, parts, self._endpoints)

    async def post(self, body: Mapping[str, Any] | bytes, path: str = "/v1/chat/completions",
                   headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.send("POST", path, data, [(b"content-type", b"application/json"), *headers])

    async def send(self, method: str, path: str, data: bytes = b"",
                   headers: Sequence[tuple[bytes, bytes]] = (), query: bytes = b"") -> Answer:
        answer = Answer()
        left = self.left = asyncio.Event()
        unread = [data[: len(data) // 2], data[len(data) // 2:]]

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(0), "more_body": bool(unread)}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                assert not answer.status and not answer.body
                answer.status, answer.headers = message["status"], dict(message["headers"])
                return
            assert answer.status and not answer.whole
            answer.body += message["body"]
            answer.whole = not message["more_body"]
            self.journal.append(("sent", message["body"], answer.whole))
            self.on_chunk(message["body"])

        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
                 "headers": [(b"host", b"localhost"), *headers], "scheme": "http"}
        await self.node(scope, receive, send)
        return answer


def chat(**fields: Any) -> dict[str, Any]:
    """A chat's body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}


def reply(**fields: Any) -> bytes:
    """An engine's whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    return orjson.dumps({"id": "chatcmpl-1", "model": MODEL, "choices": [choice], "usage": USAGE, **fields})


def piece(text: str | None = None, **fields: Any) -> bytes:
    """An event of an engine's stream."""
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return b"data: " + orjson.dumps({"id": "chatcmpl-1", "choices": choices, **fields}) + b"\n\n"


STREAM = (piece("He"), piece("llo"), piece(usage=USAGE), b"data: [DONE]\n\n")


def streaming(*chunks: bytes | asyncio.Event, **options: Any) -> Engine:
    """An engine that streams `chunks`."""
    return Engine(chunks or STREAM, "text/event-stream; charset=utf-8", **options)
