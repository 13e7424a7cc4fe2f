"""Runs the application on uvicorn, and ends it: the first signal drains, the second stops at once.

While it drains the server still listens: new requests get 503 with Retry-After, which tells a client more
than a refused connection, and /ready says no. uvicorn's own handling closes the port first and leaves by
raising the signal again; here a drained server exits with 0.
"""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from nearfield.core.errors import ConfigError
from nearfield.server.admission import MAX_HEAD
from nearfield.server.connection import Connection
from nearfield.server.trace import Trace

DRAIN_SECONDS = 30.0
"""What running requests get to finish after the first signal."""
CLOSE_SECONDS = 5
"""What finished replies get to reach their clients."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


Close = Callable[[], Awaitable[None]]
Ready = Callable[[], None]


class Stoppable(Protocol):
    """What runs requests (service.Loop)."""

    def drain(self, timeout: float | None) -> bool: ...
    def stop(self) -> None: ...


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises ConfigError when the address can not be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay (40 ms a reply) off only where the protocol is spelt out.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or error
        remedy = "--port" if getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise ConfigError(
            f"can not listen on {host}, port {port}: {reason}; choose another with {remedy}") from None
    return sock


def settings(app: ASGIApp, close_seconds: float = CLOSE_SECONDS) -> uvicorn.Config:
    """How uvicorn is to run `app`: h11, no websockets, no logs of its own, bounded heads."""
    return uvicorn.Config(
        app, http=Connection, ws="none", lifespan="off", access_log=False, log_config=None,
        server_header=False, proxy_headers=False, h11_max_incomplete_event_size=MAX_HEAD,
        timeout_graceful_shutdown=int(close_seconds))


async def nothing() -> None:
    """What there is to close where nothing is open."""
    return


def serve(app: ASGIApp, sock: socket.socket, loop: Stoppable, close: Close = nothing, *,
          ready: Ready = lambda: None) -> int:
    """Serve until a signal ends it, then `close` in the same event loop. ready: called once when requests are taken and
    signals are minded; who is told of the server before could end it without a word.

    Returns 0 when every request was finished, 1 when some were cut off.
    """
    return _run(Server(settings(app), loop, ready), sock, close)


def serve_front(app: ASGIApp, sock: socket.socket, close: Close = nothing, *, ready: Ready = lambda: None) -> int:
    """Serve an application whose engine is another process's, as `serve` does.

    The first signal closes the port and lets requests end, for DRAIN_SECONDS.
    """
    return _run(Server(settings(Trace(app), DRAIN_SECONDS), _Elsewhere(), ready), sock, close)


def _run(server: "Server", sock: socket.socket, close: Close) -> int:
    async def run() -> None:
        await server.serve(sockets=[sock])
        await close()

    asyncio.run(run())
    return 0 if server.finished else 1


class _Elsewhere:
    """The loop of an engine that is not ours to stop."""

    def drain(self, timeout: float | None) -> bool:
        return True

    def stop(self) -> None:
        return


class Server(uvicorn.Server):
    """uvicorn's server with the signals that the file's head describes."""

    def __init__(self, config: uvicorn.Config, loop: Stoppable, ready: Ready = lambda: None) -> None:
        super().__init__(config)
        self.finished = True
        self._loop, self._ready = loop, ready
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests; the signals are captured by now."""
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        events = asyncio.get_running_loop()
        for number in SIGNALS:
            events.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in SIGNALS:
                events.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())
            return
        logging.getLogger("nearfield").warning("stopping at once")
        self.finished = False
        self.should_exit = self.force_exit = True
        self._loop.stop()

    async def _drain(self) -> None:
        logging.getLogger("nearfield").info("draining: running requests get %g s", DRAIN_SECONDS)
        drained = await asyncio.to_thread(self._loop.drain, DRAIN_SECONDS)
        self.finished = self.finished and drained
        # Clients whose request was cut off hear of it before the connections close.
        await asyncio.to_thread(self._loop.stop)
        self.should_exit = True
