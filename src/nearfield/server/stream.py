"""Server-sent events over a connection that may end at any time, at either side.

A stream that failed is never ended cleanly: clients take a clean end for a whole answer. The error is
sent as an event, then the connection is cut before the last chunk, which HTTP reports as broken.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nearfield.core.errors import NearfieldError
from nearfield.server.errors import ApiError, error_body, from_engine

KEEP_ALIVE_SECONDS = 15.0
STALL_SECONDS = 60.0
"""A client that takes nothing for this long is cut off."""
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

T = TypeVar("T")


def event(payload: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves. Raises ClientDisconnect then.

    The request's body must have been read: what `receive` brings after it is the disconnection.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends `events`; calls `close` however it ends: read to the end, failed, or left by the client."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await unless_disconnected(receive, self._write(send))
        except ClientDisconnect:
            return
        finally:
            self._close()

    async def _write(self, send: Send) -> None:
        try:
            async for chunk in self._events:
                await _send_in_time(send, chunk, more=True)
        except TimeoutError:
            logging.getLogger("nearfield").warning("a client took nothing for %g s", STALL_SECONDS)
            return
        except Exception as error:
            await _send_in_time(send, event(error_body(_explain(error))), more=True)
            # Returning with the body unfinished makes the server cut the connection.
            return
        await _send_in_time(send, b"", more=False)


async def _send_in_time(send: Send, chunk: bytes, *, more: bool) -> None:
    async with asyncio.timeout(STALL_SECONDS):
        await send({"type": "http.response.body", "body": chunk, "more_body": more})


def _explain(error: Exception) -> ApiError:
    if isinstance(error, NearfieldError):
        return from_engine(error)
    logging.getLogger("nearfield").error("a stream failed", exc_info=error)
    return ApiError(500, "internal error; the server's log has the details")
