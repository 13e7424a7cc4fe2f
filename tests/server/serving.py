"""A real server on a free port, in a thread of the test's own process."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from nearfield.proof.notary import Notary
from nearfield.server.app import create_app
from nearfield.server.keys import KeyRing
from nearfield.server.run import bind, settings
from nearfield.server.service import Loop, Model
from tests.doubles import FakeEngineLoop, FakeLoaded


@dataclass(frozen=True)
class Serving:
    """Where a server is, what it serves, and the loop behind it."""

    url: str
    port: int
    name: str
    loop: Loop
    http: httpx.Client

    def chat(self, **fields: Any) -> httpx.Response:
        """POST a chat; `fields` replace those of a plain one."""
        messages = [{"role": "user", "content": "Hi"}]
        return self.http.post("/v1/chat/completions", json={"model": self.name, "messages": messages} | fields)

    def complete(self, **fields: Any) -> httpx.Response:
        """POST a completion."""
        return self.http.post("/v1/completions", json={"model": self.name, "prompt": "Hi"} | fields)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The payloads of a stream that ended as it should."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]", lines
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether `condition` comes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def idle(loop: Loop) -> bool:
    """Whether the engine comes to rest: it says so a moment after the last reply."""
    return eventually(lambda: loop.stats().running + loop.stats().waiting == 0)


@contextmanager
def serving(loaded: Model | None = None, loop: Loop | None = None, *,
            keys: KeyRing | None = None, receipts: Notary | None = None) -> Iterator[Serving]:
    """Serve the doubles, or what is given, until the block ends. A loop that is given must run already."""
    loaded = loaded or FakeLoaded()
    loop = loop or started(FakeEngineLoop())
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = uvicorn.Server(settings(create_app(loaded, loop, keys=keys, receipts=receipts)))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    sock.listen()
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Serving(url, port, loaded.name, loop, http)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)
        loop.stop()


def started(loop: FakeEngineLoop) -> FakeEngineLoop:
    """The loop, running."""
    loop.start()
    return loop
