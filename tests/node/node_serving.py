"""Real servers on free ports, in threads of the test's process: a node over the engine double, in one process with
the server or in front of it over HTTP."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp

from nearfield.node.build import OpenNode, open_node
from nearfield.node.config import NodeConfig
from nearfield.node.identity import create
from nearfield.node.upstream import Upstream
from nearfield.proof.notary import Notary
from nearfield.server.app import create_app
from nearfield.server.keys import KeyRing
from nearfield.server.run import Close, bind, nothing, settings
from nearfield.server.service import Loop, Model
from nearfield.server.trace import Trace
from tests.doubles import FakeEngineLoop, FakeLoaded
from tests.server.serving import started


@contextmanager
def running(app: ASGIApp, close: Close = nothing) -> Iterator[str]:
    """The URL of `app`, served until the block ends; then `close` is called in its event loop."""
    sock = bind("127.0.0.1", 0)
    server = uvicorn.Server(settings(app))

    async def serve() -> None:
        await server.serve(sockets=[sock])
        await close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    sock.listen()
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


@dataclass(frozen=True)
class ServedNode:
    """A node that serves `model` at `url`, the loop of its engine, and a client."""

    url: str
    model: str
    node: OpenNode
    loop: Loop
    http: httpx.Client


@contextmanager
def served_node(home: Path, *, behind: str = "inside", config: NodeConfig | None = None, keys: Sequence[str] = (),
                loaded: Model | None = None, loop: Loop | None = None, notary: Notary | None = None,
                ) -> Iterator[ServedNode]:
    """A node with new keys in `home`. behind: "inside" the engine's server, or "front" of it over HTTP."""
    if not (home / "ed25519.json").exists():
        create(home)
    loaded = loaded or FakeLoaded()
    with ExitStack() as stack:
        if loop is None:
            loop = started(FakeEngineLoop())
            stack.callback(loop.stop)
        node = open_node(home, config or NodeConfig(), loaded.name, KeyRing(keys))
        stack.callback(node.close)
        if behind == "inside":
            app = create_app(loaded, loop, receipts=notary, front=node.front)
            url = stack.enter_context(running(app, node.aclose))
        else:
            engine = Upstream(stack.enter_context(running(create_app(loaded, loop))))

            async def close() -> None:
                await engine.aclose()
                await node.aclose()

            url = stack.enter_context(running(Trace(node.front(engine)), close))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=30))
        yield ServedNode(url, loaded.name, node, loop, http)
