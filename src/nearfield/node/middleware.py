"""The node as ASGI middleware: who may come in, which requests are signed, which the node answers by itself.

It stands before an engine and knows nothing of it but OpenAI's HTTP. What is not listed here does not reach the
engine. Authentication happens here and nowhere else: the engine's own server takes the tenant from `state`.
"""

import re
from hashlib import sha256
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nearfield.node.errors import NodeError, no_model
from nearfield.node.exchange import Exchange
from nearfield.node.parts import Keys, Parts
from nearfield.node.wire import ask, read_object, send_error, send_json

SIGNED = frozenset({"/v1/chat/completions", "/v1/completions"})
# Open to all: NEAR AI's own list, and what load balancers ask.
OPEN = frozenset({"/", "/version", "/health", "/healthz", "/ready", "/metrics", "/v1/metrics", "/v1/models",
                  "/v1/loads", "/v1/attestation/report"})
MODELS = "/v1/models"
PASSED = re.compile(r"GET /(?:health|ready|version|metrics|v1/loads|v1/receipt/[^/]+|v1/verify/selftest)"
                    r"|POST /(?:tokenize|detokenize)")
OWN = re.compile(r"GET /v1/(?:models(?:/.+)?|metrics)|POST /v1/(?:chat/)?completions")
METHODS = ("GET", "POST")
TENANT_DIGITS = 16


class Endpoints(Protocol):
    """The node's own endpoints (endpoints.Endpoints)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answers a request, or says that it is none of these."""

    def methods(self, path: str) -> list[str]:
        """The methods that `path` has."""


class Node:
    """`engine`, signed, metered and paid. endpoints: the node's own."""

    def __init__(self, engine: ASGIApp, parts: Parts, endpoints: Endpoints) -> None:
        self._engine, self._parts, self._endpoints = engine, parts, endpoints
        self._exchange = Exchange(engine, parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._engine(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            scope = {**scope, "state": {**scope.get("state", {}), "tenant": _tenant(scope, self._parts.keys)}}
            await self._serve(scope, receive, watched)
        except NodeError as error:
            if not started:
                await send_error(send, error)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if await self._endpoints(scope, receive, send):
            return
        if not _known(method, path):
            self._refuse(path)
        # None of the paths that an engine sees has a query.
        scope = {**scope, "query_string": b""}
        if path in SIGNED:
            _check_json(scope)
            await self._exchange.run(scope, receive, send)
        elif path.startswith(MODELS):
            await self._models(scope, send)
        elif path == "/v1/metrics":
            await self._engine({**scope, "path": "/metrics", "raw_path": b"/metrics"}, receive, send)
        else:
            await self._engine(scope, receive, send)

    def _refuse(self, path: str) -> None:
        """Raises NodeError: 405 where `path` has another method, else 404."""
        allowed = [*self._endpoints.methods(path), *(method for method in METHODS if _known(method, path))]
        if allowed:
            methods = " and ".join(allowed)
            raise NodeError(405, f"this endpoint takes {methods} only", headers={"Allow": ", ".join(allowed)})
        raise NodeError(404, "no such endpoint on this node")

    async def _models(self, scope: Scope, send: Send) -> None:
        """The engine's list of models, cut to the node's own, with its prices; or that one entry, by its name."""
        name = scope["path"].removeprefix(MODELS).removeprefix("/")
        if name not in ("", self._parts.model):
            raise no_model(self._parts.model)
        status, data = await ask(self._engine, scope, "GET", MODELS)
        body = read_object(data) if status == 200 else {}
        if not isinstance(entries := body.get("data"), list):
            raise NodeError(502, "the engine behind this node does not say which models it has")
        priced = {"pricing": self._parts.pricing, "is_ready": True}
        found: list[dict[str, Any]] = [
            {**entry, **priced, "context_length": entry.get("max_model_len")} for entry in entries
            if isinstance(entry, dict) and entry.get("id") == self._parts.model]
        if name and not found:
            raise NodeError(502, "the engine behind this node does not list its model")
        await send_json(send, 200, found[0] if name else {**body, "data": found})


def _known(method: str, path: str) -> bool:
    asked = f"{method} {path}"
    return bool(OWN.fullmatch(asked) or PASSED.fullmatch(asked))


def _tenant(scope: Scope, keys: Keys) -> str:
    """Whose request it is: prefixes and receipts are shared within a tenant only. Raises NodeError (401)."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    authorization = given[0] if len(given) == 1 else None
    if keys and scope["path"] not in OPEN:
        tenant = keys.tenant(authorization)
        if tenant is None:
            raise NodeError(401, "a valid API key is needed: Authorization: Bearer KEY",
                            headers={"WWW-Authenticate": "Bearer"})
        return tenant
    scheme, _, key = (authorization or b"").partition(b" ")
    return sha256(key.strip()).hexdigest()[:TENANT_DIGITS] if scheme.lower() == b"bearer" else ""


def _check_json(scope: Scope) -> None:
    """A page of another origin can send anything but this without asking first. Raises NodeError (400)."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != b"application/json":
        raise NodeError(400, "send JSON, with Content-Type: application/json")
    if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in scope["headers"]):
        raise NodeError(400, "send the body without Content-Encoding")
