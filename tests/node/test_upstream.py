"""An engine on the network: bytes pass as they come, and whoever leaves, the other side is let go."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Message

from nearfield.node.errors import NodeError
from nearfield.node.upstream import Upstream

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def engine(answer: Server) -> AsyncIterator[Upstream]:
    """An engine that is a plain TCP server, so that it can break HTTP as engines that die do."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = Upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield upstream
    finally:
        await upstream.aclose()
        server.close()


async def ask(upstream: Upstream, got: list[Message], *, headers: list[tuple[bytes, bytes]] | None = None,
              left: asyncio.Event | None = None, path: str = "/v1/chat/completions") -> None:
    """POST {} to `path`; what comes back is put into `got` as it comes."""
    unread: list[Message] = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Message:
        if unread:
            return unread.pop()
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        got.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"a=1", "headers": headers or []}
    await asyncio.wait_for(upstream(scope, receive, send), 5)


async def head(reader: asyncio.StreamReader) -> str:
    """The request's head; its body is two bytes."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode()
    await reader.readexactly(2)
    return text.lower()


def chunked(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def test_bytes_and_status_pass_and_what_is_of_one_connection_does_not() -> None:
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await head(reader))
        writer.write(b"HTTP/1.1 429 Busy\r\nRetry-After: 2\r\nSet-Cookie: a=b\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
                     b"Keep-Alive: 5\r\nX-Odd: yes\r\nContent-Length: 4\r\n\r\nbusy")
        await writer.drain()

    async def talk() -> None:
        got: list[Message] = []
        given = [(b"Authorization", b"Bearer sk-1"), (b"cookie", b"c"), (b"Accept-Encoding", b"gzip"),
                 (b"X-Mine", b"2"), (b"X-Request-Id", b"me"), (b"connection", b"x-named"), (b"x-named", b"3"),
                 (b"host", b"node.example")]
        async with engine(answer) as upstream:
            await ask(upstream, got, headers=given)
        assert got[0]["status"] == 429
        assert dict(got[0]["headers"]) == {b"retry-after": b"2", b"x-odd": b"yes", b"content-length": b"4"}
        assert b"".join(message["body"] for message in got[1:]) == b"busy" and not got[-1]["more_body"]
        assert seen[0].startswith("post /v1/chat/completions http/1.1\r\n") and "x-mine: 2" in seen[0]
        assert "accept-encoding: identity" in seen[0] and "host: 127.0.0.1" in seen[0]
        hidden = ("sk-1", "cookie", "gzip", "x-named", "node.example", "x-request-id")
        assert not [word for word in hidden if word in seen[0]]

    asyncio.run(talk())


def test_a_stream_passes_piece_by_piece_and_its_break_shows() -> None:
    async def talk() -> None:
        got: list[Message] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(3):
                chunked(writer, b"data: %d\n\n" % number)
                await writer.drain()
                while len(got) < number + 2:    # the status, and each piece before the next is made
                    await asyncio.sleep(0.001)

        async with engine(answer) as upstream:
            await ask(upstream, got)
        assert [message["body"] for message in got[1:]] == [b"data: %d\n\n" % number for number in range(3)]
        assert got[-1]["more_body"]     # cut by the engine: never marked as whole

    asyncio.run(talk())


def test_the_engine_is_let_go_when_the_client_leaves() -> None:
    async def talk() -> None:
        left, closed = asyncio.Event(), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await head(reader)
            left.set()
            assert await reader.read() == b""
            closed.set()

        async with engine(answer) as upstream:
            await ask(upstream, [], left=left)
            await asyncio.wait_for(closed.wait(), 5)

    asyncio.run(talk())


async def _closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)


async def _compresses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx")
    await writer.drain()


async def _speaks_otherwise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    writer.write(b"SSH-2.0-secret\r\n")
    await writer.drain()


@pytest.mark.parametrize("answer", [_closes, _compresses, _speaks_otherwise])
def test_an_engine_that_gives_no_answer_is_a_502(answer: Server) -> None:
    async def talk() -> None:
        got: list[Message] = []
        async with engine(answer) as upstream:
            with pytest.raises(NodeError) as caught:
                await ask(upstream, got)
        assert caught.value.status == 502 and got == []
        assert "127.0.0.1" not in str(caught.value) and "secret" not in str(caught.value)

    asyncio.run(talk())


def test_an_engine_that_is_not_there_is_a_503_that_says_when_to_come_back() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))    # bound, and nobody listens
        upstream = Upstream(f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(NodeError) as caught:
            asyncio.run(ask(upstream, []))
    assert caught.value.status == 503 and caught.value.headers["Retry-After"] == "2"


@pytest.mark.parametrize(("path", "silence"), [("/v1/chat/completions", 600.0), ("/tokenize", 300.0)])
def test_silence_is_bounded(path: str, silence: float) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        timeout: Any = request.extensions["timeout"]
        assert timeout["read"] == silence
        raise httpx.ReadTimeout("slow", request=request)

    with pytest.raises(NodeError) as caught:
        asyncio.run(ask(Upstream("http://engine", httpx.MockTransport(answer)), [], path=path))
    assert caught.value.status == 504


async def _waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await head(reader)
    await reader.read()


def test_loads_count_what_the_engine_is_asked_for() -> None:
    async def talk() -> None:
        left = asyncio.Event()

        async def running(upstream: Upstream) -> object:
            got: list[Message] = []
            await ask(upstream, got, path="/v1/loads")
            assert got[0]["status"] == 200
            return orjson.loads(got[1]["body"])["loads"]

        async with engine(_waits) as upstream:
            asking = [asyncio.ensure_future(ask(upstream, [], left=left)) for _ in range(2)]
            while not upstream._running:
                await asyncio.sleep(0.001)
            assert await running(upstream) == [
                {"dp_rank": 0, "num_running_reqs": 2, "num_waiting_reqs": 0, "num_total_reqs": 2}]
            left.set()
            await asyncio.gather(*asking)
            assert await running(upstream) == [
                {"dp_rank": 0, "num_running_reqs": 0, "num_waiting_reqs": 0, "num_total_reqs": 0}]

    asyncio.run(talk())


@pytest.mark.parametrize(("given", "words", "status"), [
    (httpx.Response(404, text="Not Found"), "no such endpoint", 404), (httpx.Response(405), "no such endpoint", 404),
    (httpx.Response(404, json={"detail": "Not Found"}), "no such endpoint", 404),
    (httpx.Response(500, text="a secret"), "does not say why", 500)])
def test_a_refusal_without_an_error_object_gets_one(given: httpx.Response, words: str, status: int) -> None:
    with pytest.raises(NodeError, match=words) as caught:
        asyncio.run(ask(Upstream("http://engine", httpx.MockTransport(lambda _: given)), [], path="/detokenize"))
    assert caught.value.status == status and "secret" not in caught.value.message


def test_a_refusal_with_an_error_object_passes() -> None:
    got: list[Message] = []
    given = httpx.Response(400, json={"error": {"message": "too long"}}, headers={"Retry-After": "3"})
    asyncio.run(ask(Upstream("http://engine", httpx.MockTransport(lambda _: given)), got, path="/tokenize"))
    assert got[0]["status"] == 400 and (b"retry-after", b"3") in got[0]["headers"]
    assert orjson.loads(got[1]["body"]) == {"error": {"message": "too long"}}


@pytest.mark.parametrize("path", ["/a\0", "/" + "a" * 66_000])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(NodeError) as caught:
        asyncio.run(ask(Upstream("http://engine"), [], path=path))
    assert caught.value.status == 400
