"""An OpenAI-compatible engine on the network, as an ASGI application: the inner side of `nearfield node front`.

One connection pool, no redirects, no proxies from the environment: a prompt goes where the operator said and
nowhere else. The engine's bytes pass as they come, at the client's pace; when either side leaves, the other is
let go.
"""

import asyncio
from datetime import UTC, datetime

import httpx
import orjson
from starlette.types import Receive, Scope, Send

from nearfield.node.errors import NodeError
from nearfield.node.wire import read_body, send_json, unless

COMPLETION_SECONDS = 600.0
CONTROL_SECONDS = 300.0
"""How long an engine may be silent, as at NEAR AI's gateway: while it answers, and on all other paths."""
CONNECT_SECONDS = 10.0
MAX_BODY = 64 << 20
RETRY_SECONDS = 2

HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
                        b"transfer-encoding", b"upgrade", b"proxy-connection"})
# The client's key is for the node, not for the engine; a name for the request could become its answer's
# (requested.py). A compressed answer could not be signed as it is sent.
NOT_SENT = HOP_BY_HOP | {b"host", b"content-length", b"authorization", b"cookie", b"accept-encoding", b"expect",
                         b"x-request-id"}
NOT_RETURNED = HOP_BY_HOP | {b"server", b"date", b"set-cookie", b"x-request-id"}


class Upstream:
    """The engine at `url` (without /v1). transport: how to reach it, for tests."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url, transport=transport, trust_env=False, follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64))
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises NodeError: 502, 503 or 504 when the engine gives no answer, 404 and 400 for receipts."""
        _check_receipts(scope)
        if scope["path"] == "/v1/loads":
            await send_json(send, 200, self._loads())
            return
        completion = scope["path"].endswith("/completions")
        request = self._request(scope, await read_body(receive, MAX_BODY),
                                COMPLETION_SECONDS if completion else CONTROL_SECONDS)
        left = asyncio.ensure_future(_gone(receive))
        self._running += completion
        try:
            await unless(left, self._exchange(request, send, completion))
        finally:
            self._running -= completion
            left.cancel()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _request(self, scope: Scope, body: bytes, silence: float) -> httpx.Request:
        """Raises NodeError (400)."""
        try:
            return self._client.build_request(
                scope["method"], httpx.URL(path=scope["path"]), content=body,
                headers=[*_kept(scope["headers"], NOT_SENT), (b"accept-encoding", b"identity")],
                timeout=httpx.Timeout(silence, connect=CONNECT_SECONDS))
        except httpx.InvalidURL:
            raise NodeError(400, "the path is too long, or has characters that a path has not") from None

    def _loads(self) -> dict[str, object]:
        """How busy the engine is, as far as this node keeps it so: what is asked of it and not answered yet."""
        load = {"dp_rank": 0, "num_running_reqs": self._running, "num_waiting_reqs": 0,
                "num_total_reqs": self._running}
        return {"timestamp": datetime.now(UTC).isoformat(), "dp_rank_count": 1, "loads": [load]}

    async def _exchange(self, request: httpx.Request, send: Send, completion: bool) -> None:
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _unanswered(error) from None
        try:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise NodeError(502, "the engine compressed its answer, though it was asked not to")
            if response.is_error and not completion:
                await _refuse(response, send)
                return
            headers = _kept(response.headers.raw, NOT_RETURNED)
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await _copy(response, send)
        finally:
            await response.aclose()


async def _copy(response: httpx.Response, send: Send) -> None:
    """Hand the body on. A broken one is not ended: that tells who reads that it is not whole."""
    try:
        async for chunk in response.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.HTTPError:
        return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse(response: httpx.Response, send: Send) -> None:
    """Hand a refusal on. Raises NodeError for one without an error object: a web framework's, as of an unknown path."""
    status = response.status_code
    try:
        found = orjson.loads(await response.aread())
    except httpx.HTTPError as error:
        raise _unanswered(error) from None
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict) and "error" in found:
        kept = {name: value for name, value in response.headers.items() if name == "retry-after"}
        await send_json(send, status, found, kept)
    elif status in (404, 405, 501):
        raise NodeError(404, "the engine behind this node has no such endpoint")
    else:
        raise NodeError(status, "the engine behind this node refused, and does not say why")


def _check_receipts(scope: Scope) -> None:
    """An engine elsewhere would ignore the header, and its client wait for a receipt. Raises NodeError."""
    words = "this node gives no receipts: its engine is not Nearfield's own, in one process with it"
    if scope["path"].startswith(("/v1/receipt/", "/v1/verify/")):
        raise NodeError(404, words)
    if any(name == b"x-receipt-nonce" for name, _ in scope["headers"]):
        raise NodeError(400, f"{words}; leave X-Receipt-Nonce out")


def _kept(headers: list[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """`headers`, in lower case, without those of one connection only and those in `dropped`."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in lowered if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in lowered if name not in dropped and name not in named]


def _unanswered(error: httpx.HTTPError) -> NodeError:
    """What a client hears. Neither the engine's address nor the text of the error is its business."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return NodeError(503, "the engine behind this node can not be reached; try again, or another node",
                         headers={"Retry-After": str(RETRY_SECONDS)})
    if isinstance(error, httpx.TimeoutException):
        return NodeError(504, "the engine behind this node was silent for too long")
    return NodeError(502, "the engine behind this node broke off before it answered; try again, or another node")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
