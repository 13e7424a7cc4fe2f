"""Who and what may reach an endpoint: checks on a request's head, before a byte of its body is read.

Pure ASGI, in front of the router: what is not let in here reaches nothing. Everything but /health and
/ready needs a key when keys are set, whether or not the path exists.
"""

import re
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from nearfield.server.errors import ApiError, bad_request, error_response
from nearfield.server.keys import KeyRing

OPEN_PATHS = frozenset({"/health", "/ready"})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_HEADERS = 100
MAX_HEAD = 16 << 10
HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class Admission:
    """Lets a request in, with its tenant in `state`, or answers it with an error."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _check_head(scope)
            state = scope.setdefault("state", {})
            # What stands in front, in this process, has asked for a key already: a NEAR node does.
            if "tenant" not in state:
                state["tenant"] = self._tenant(scope)
            _check_type(scope)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _tenant(self, scope: Scope) -> str:
        if scope["path"] in OPEN_PATHS:
            return ""
        headers = _all(scope, b"authorization")
        tenant = self._keys.tenant(headers[0] if len(headers) == 1 else None)
        if tenant is None:
            raise ApiError(401, "a valid API key is needed: Authorization: Bearer KEY",
                           code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return tenant


def _check_head(scope: Scope) -> None:
    """What no honest client sends."""
    # A head that came in one piece is not measured by h11.
    size = sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope.get("raw_path", b""))
    if len(scope["headers"]) > MAX_HEADERS or size > MAX_HEAD:
        raise ApiError(431, f"more than {MAX_HEADERS} headers, or {MAX_HEAD} bytes of them")
    if _all(scope, b"content-length") and _all(scope, b"transfer-encoding"):
        raise bad_request("Content-Length and Transfer-Encoding exclude each other")
    hosts = _all(scope, b"host")
    if len(hosts) != 1 or not HOST.fullmatch(hosts[0]):
        raise bad_request("the Host header is not a host name with an optional port")
    origins = _all(scope, b"origin")
    if scope["method"] not in ("GET", "HEAD") and any(not _is_loopback(origin) for origin in origins):
        raise ApiError(403, "requests from pages of other origins are refused", code="foreign_origin")


def _check_type(scope: Scope) -> None:
    if scope["method"] != "POST":
        return
    kinds = _all(scope, b"content-type")
    kind = kinds[0].partition(b";")[0].strip().lower() if len(kinds) == 1 else b""
    if kind != b"application/json":
        raise ApiError(415, "send JSON, with Content-Type: application/json")
    if any(coding.strip().lower() != b"identity" for coding in _all(scope, b"content-encoding")):
        raise ApiError(415, "send the body without Content-Encoding")


def _all(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _is_loopback(origin: bytes) -> bool:
    """Whether a page of `origin` comes from this machine; "null" and nonsense do not."""
    try:
        return urlsplit(origin.decode("ascii")).hostname in LOOPBACK
    except ValueError:
        return False
