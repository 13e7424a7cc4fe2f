"""The application: routes, and what stands in front of them."""

import time
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from nearfield.proof.notary import Notary
from nearfield.server import routes
from nearfield.server.admission import Admission
from nearfield.server.chat import chat
from nearfield.server.completions import completions
from nearfield.server.errors import handlers
from nearfield.server.keys import KeyRing
from nearfield.server.receipts import nonce, receipt, selftest
from nearfield.server.service import Loop, Model, Service, make_service
from nearfield.server.trace import Trace

Endpoint = Callable[[Service, Request], Awaitable[Response]]
Front = Callable[[ASGIApp], ASGIApp]

ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/chat/completions", chat),
    ("POST", "/v1/completions", completions),
    ("GET", "/v1/receipt/nonce", nonce),
    ("GET", "/v1/receipt/{id}", receipt),
    ("GET", "/v1/verify/selftest", selftest),
    ("GET", "/v1/models", routes.models),
    ("GET", "/v1/models/{name:path}", routes.model),
    ("POST", "/tokenize", routes.tokenize),
    ("POST", "/detokenize", routes.detokenize),
    ("GET", "/health", routes.health),
    ("GET", "/ready", routes.ready),
    ("GET", "/version", routes.about),
    ("GET", "/metrics", routes.metrics),
    ("GET", "/v1/loads", routes.loads),
)


def create_app(loaded: Model, loop: Loop, *, keys: KeyRing | None = None,
               name: str | None = None, receipts: Notary | None = None, front: Front | None = None) -> Starlette:
    """The server of one model as an ASGI application.

    loaded: the model (engine.build.Loaded); loop: its running EngineLoop; keys: who may use it (None:
    everyone); name: what clients call it (None: loaded.name); receipts: what gives them (None: nobody);
    front: what stands between a request's name and its admission, and then is who asks for keys (a NEAR node).
    Raises ConfigError without a tokenizer.
    """
    service = make_service(loaded, loop, name=name, created=int(time.time()), notary=receipts)
    app = Starlette(
        routes=[Route(path, partial(endpoint, service), methods=[method])
                for method, path, endpoint in ROUTES],
        middleware=[Middleware(Trace), *([Middleware(front)] if front else []),
                    Middleware(Admission, keys or KeyRing())],
        exception_handlers=handlers())
    app.router.redirect_slashes = False
    return app
