"""Node processes to be killed: for each line of stdin, a home, one more that serves; prints "PID PORT".

They are forked from this process, which has imported everything and runs no thread, so that one starts in
milliseconds. The arguments are the model, `fake` (the engine double) or `pocket` (which gives receipts), and the time
of a token of the double in seconds. API keys pay; a prompt with "too often" in it is answered 429.
"""

import os
import signal
import sys
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearfield.core.config import EngineConfig
from nearfield.engine.build import load_engine
from nearfield.engine.loop import EngineLoop
from nearfield.node.build import open_node
from nearfield.node.config import parse_config
from nearfield.node.wire import send_json
from nearfield.proof.opening import open_notary
from nearfield.server.app import create_app
from nearfield.server.keys import KeyRing
from nearfield.server.run import bind, serve
from tests.doubles import FakeEngineLoop, FakeLoaded
from tests.server.serving import started

PAID = {"payment": "prepaid", "prices": {"prompt": "1", "completion": "2"}}
BUSY = {"error": {"message": "too many requests", "type": "rate_limited", "param": None, "code": None}}


def sometimes_busy(engine: ASGIApp) -> ASGIApp:
    """`engine`, which answers 429 to those who ask too often."""
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive() if scope["method"] == "POST" else None
        if first is not None and b"too often" in first.get("body", b"") and scope["path"] != "/tokenize":
            await send_json(send, 429, BUSY, {"Retry-After": "7"})
            return
        unread = [first] if first is not None else []

        async def again() -> Message:
            return unread.pop() if unread else await receive()

        await engine(scope, again, send)

    return app


def serve_until_killed(home: Path, model: str, step: float) -> int:
    """The life of one node."""
    node = open_node(home, parse_config(PAID), model, KeyRing())
    with bind("127.0.0.1", 0) as sock:
        sock.listen()
        if model == "fake":
            fake = started(FakeEngineLoop(step_s=step))
            app = create_app(FakeLoaded(), fake, front=lambda engine: node.front(sometimes_busy(engine)))
            print(os.getpid(), sock.getsockname()[1], flush=True)
            return serve(app, sock, fake)
        loaded = load_engine(None, EngineConfig(dtype="fp32", kv_memory=16 << 20, threads=1))
        notary = open_notary(loaded, node.identity, home)
        loop = EngineLoop(loaded.engine)
        loop.start()
        app = create_app(loaded, loop, receipts=notary, front=lambda engine: node.front(sometimes_busy(engine)))
        print(os.getpid(), sock.getsockname()[1], flush=True)
        return serve(app, sock, loop)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)     # nobody waits for who was killed
    for line in sys.stdin:
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            sys.exit(serve_until_killed(Path(line.strip()), sys.argv[1], float(sys.argv[2])))
