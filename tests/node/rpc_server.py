"""The RPC double over HTTP, for what can not be handed a transport: a node's own process, the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from starlette.types import Receive, Scope, Send

from nearfield.node.wire import read_body, send_json
from tests.node.fake_rpc import URL, FakeRpc
from tests.node.node_serving import running


@contextmanager
def rpc_server(rpc: FakeRpc) -> Iterator[str]:
    """The URL at which `rpc` answers."""
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = rpc.answer(httpx.Request("POST", URL, content=await read_body(receive, 1 << 20)))
        await send_json(send, answer.status_code, answer.content)

    with running(app) as url:
        yield url
