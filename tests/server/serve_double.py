"""A process that serves the doubles, for tests of signals: prints its port, exits as `nearfield serve` would.

Its engine needs 20 ms a token.
"""

import sys

from nearfield.server.app import create_app
from nearfield.server.run import bind, serve
from tests.doubles import FakeEngineLoop, FakeLoaded
from tests.server.serving import started

if __name__ == "__main__":
    loop = started(FakeEngineLoop(step_s=0.02))
    with bind("127.0.0.1", 0) as sock:
        sys.exit(serve(create_app(FakeLoaded(), loop), sock, loop,
                       ready=lambda: print(sock.getsockname()[1], flush=True)))
