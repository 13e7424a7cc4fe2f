"""The mechanism of the node's own endpoints: a table of paths, JSON in, JSON out, NodeError for what is refused."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import QueryParams
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from nearfield.node.errors import NodeError
from nearfield.node.wire import read_body, send_json, single_headers

MAX_BODY = 64 << 10


@dataclass(frozen=True)
class Call:
    """A request of an endpoint. path: the values of the path's {names}; headers: those that it asked for."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    url: str


@dataclass(frozen=True)
class Reply:
    """An answer of an endpoint."""

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Endpoint:
    """What answers `method` on `path` (/a/{name}); `headers` are those it reads, in lower case."""

    method: str
    path: str
    answer: Callable[[Call], Awaitable[Reply]]
    headers: tuple[str, ...] = ()


class Endpoints:
    """Answers what is in the table, and says whether it was."""

    def __init__(self, table: Iterable[Endpoint]) -> None:
        self._table = [(endpoint, compile_path(endpoint.path)[0]) for endpoint in table]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Raises NodeError as the endpoint does."""
        for endpoint, pattern in self._table:
            if scope["method"] == endpoint.method and (found := pattern.fullmatch(scope["path"])):
                try:
                    reply = await endpoint.answer(await _call(endpoint, found.groupdict(), scope, receive))
                except NodeError as error:
                    if error.status != 400:
                        raise
                    raise NodeError(400, error.message, headers=error.headers, kind="bad_request") from None
                await send_json(send, reply.status, reply.body, reply.headers)
                return True
        return False

    def methods(self, path: str) -> list[str]:
        """The methods that `path` has."""
        return [endpoint.method for endpoint, pattern in self._table if pattern.fullmatch(path)]


async def _call(endpoint: Endpoint, path: Mapping[str, str], scope: Scope, receive: Receive) -> Call:
    body = await read_body(receive, MAX_BODY) if endpoint.method == "POST" else b""
    query = QueryParams(scope.get("query_string", b""))
    if twice := next((name for name in query if len(query.getlist(name)) > 1), None):
        raise NodeError(400, f"the parameter {twice[:64]!r} stands twice; send it once")
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "localhost")
    return Call(path, dict(query), single_headers(scope, endpoint.headers), body,
                f"{scope.get('scheme', 'http')}://{host}{scope['path']}")
