"""HTTP as the node reads and writes it: bodies under a cap, headers that may stand once only, JSON, errors."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearfield.node.errors import NodeError

MAX_DISCARD = 128 << 20
"""Bytes of an oversized body that are read and dropped, so that its sender gets to read the 413."""
BODY_SECONDS = 60.0

Headers = list[tuple[bytes, bytes]]


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. Raises NodeError: 413 over `limit` bytes, 408 too slow, 400 when the client left."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read(receive, limit)
    except TimeoutError:
        raise NodeError(408, f"the body did not arrive within {BODY_SECONDS:g} s",
                        headers={"Connection": "close"}) from None


async def _read(receive: Receive, limit: int) -> bytes:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise NodeError(400, "the client left before its request was whole")
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > MAX_DISCARD:
            break
    if size > limit:
        raise NodeError(413, f"the body is larger than {limit} bytes", headers={"Connection": "close"})
    return b"".join(chunks)


async def unless(signal: asyncio.Future[Any], work: Awaitable[None]) -> None:
    """Do `work`, which is dropped when `signal` comes before its end. Raises what it raises."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, signal), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(engine: ASGIApp, scope: Scope, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """A request of the node's own to its engine, on behalf of `scope`: status and body of the answer."""
    status, chunks = 502, []
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return unread.pop() if unread else await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            chunks.append(message.get("body", b""))

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
               *((name, value) for name, value in scope["headers"] if name == b"host")]
    asked = {**scope, "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": headers, "state": dict(scope.get("state", {}))}
    try:
        await engine(asked, receive, send)
    except NodeError as error:
        return error.status, b""
    return status, b"".join(chunks)


def read_object(data: bytes) -> dict[str, Any]:
    """`data` as a JSON object. Raises NodeError (400)."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NodeError(400, f"the body is not valid JSON: line {error.lineno}, column {error.colno}") from None
    if not isinstance(body, dict):
        raise NodeError(400, "the body must be a JSON object")
    return body


def single_headers(scope: Scope, names: Iterable[str]) -> dict[str, str]:
    """Those of `names` (in lower case) that the request has. Raises NodeError (400) for one that stands twice."""
    wanted = {name.encode("ascii") for name in names}
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        if raw not in wanted:
            continue
        name = raw.decode("ascii")
        if name in found:
            raise NodeError(400, f"the header {name} stands twice; send it once")
        found[name] = value.decode("latin-1").strip()
    return found


async def send_json(send: Send, status: int, body: Mapping[str, Any] | bytes,
                    headers: Mapping[str, str] | None = None) -> None:
    """A whole answer."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()),
             *((name.lower().encode("ascii"), value.encode("latin-1")) for name, value in (headers or {}).items())]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": data, "more_body": False})


async def send_error(send: Send, error: NodeError) -> None:
    """The answer that `error` is."""
    await send_json(send, error.status, error.body(), error.headers)
