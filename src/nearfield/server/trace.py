"""A name and a log line for every request.

The line holds what the client sent (method, path, id) with control characters escaped, and never a body.
"""

import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLEAN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
MAX_LOGGED_PATH = 256


class Trace:
    """Sends X-Request-Id with every reply, the client's own where it is clean, and logs the outcome."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._log = app, logging.getLogger("nearfield.access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        status, finished, started = 0, False, time.perf_counter()

        async def traced(message: Message) -> None:
            nonlocal status, finished
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id)]}
            elif message["type"] == "http.response.body":
                finished = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, traced)
        finally:
            taken = 1000 * (time.perf_counter() - started)
            outcome = str(status) if finished else f"{status} broken off"
            self._log.info("%s %s %s %.0f ms id=%s", scope["method"], printable(scope["path"]), outcome,
                           taken, request_id.decode())


def printable(text: str) -> str:
    """`text` on one line of plain characters: what is not printable ASCII is escaped."""
    return text[:MAX_LOGGED_PATH].encode("unicode_escape").decode("ascii")


def _request_id(scope: Scope) -> bytes:
    given = [value for key, value in scope["headers"] if key == b"x-request-id"]
    if len(given) == 1 and CLEAN_ID.fullmatch(given[0]):
        return bytes(given[0])
    return uuid.uuid4().hex.encode()
