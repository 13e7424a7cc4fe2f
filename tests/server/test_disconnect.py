"""Ends that are not the plain one: clients that leave, engines that fail, queues that are full."""

import time
from collections.abc import Iterator

import httpx
import openai
import pytest

from nearfield.core.errors import NearfieldError
from nearfield.server import answers, stream
from tests.doubles import FakeEngineLoop
from tests.server.serving import Serving, eventually, idle, serving, started


@pytest.fixture
def slow() -> Iterator[tuple[Serving, FakeEngineLoop]]:
    """An engine that needs 20 ms a token: an answer takes seconds."""
    loop = started(FakeEngineLoop(step_s=0.02, max_seqs=4, max_waiting=2))
    with serving(loop=loop) as server:
        yield server, loop


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_client_that_leaves_frees_all_its_requests(
        slow: tuple[Serving, FakeEngineLoop], path: str, streamed: bool) -> None:
    server, loop = slow
    what = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}
    body = {"model": "fake", "n": 3, "ignore_eos": True, "max_tokens": 400, "stream": streamed} | what
    with pytest.raises(httpx.ReadTimeout):
        # A client of its own: closing it is what drops the connection.
        with httpx.Client(base_url=server.url, timeout=1) as client:
            if not streamed:
                client.post(path, json=body)
            with client.stream("POST", path, json=body) as reply:
                next(reply.iter_lines())
                raise httpx.ReadTimeout("enough")
    assert eventually(lambda: len(loop.cancelled) == 3)
    assert idle(loop)
    assert 'finish_reason="abort",model_name="fake"} 3.0' in server.http.get("/metrics").text
    assert server.chat(max_tokens=1).status_code == 200


def test_a_full_queue_is_503_and_leaves_nothing_behind(slow: tuple[Serving, FakeEngineLoop]) -> None:
    server, loop = slow
    reply = server.complete(prompt=["x"] * 10, max_tokens=300)
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "queue_full"
    assert 1 <= int(reply.headers["retry-after"]) <= 5
    assert loop.stats().running == loop.stats().waiting == 0, "those that had been taken in are free again"
    reply = server.complete(prompt=["x"] * 10, max_tokens=300, stream=True)
    assert reply.status_code == 503, "also for a stream: the status waits for the engine"


def failing() -> FakeEngineLoop:
    return started(FakeEngineLoop(script=lambda request: NearfieldError("the step failed")))


def test_a_stream_that_fails_sends_an_error_and_breaks_off() -> None:
    with serving(loop=failing()) as server:
        body = {"model": "fake", "prompt": "x", "stream": True}
        with pytest.raises(httpx.RemoteProtocolError), server.http.stream("POST", "/v1/completions", json=body) as r:
            assert r.status_code == 200
            lines = []
            for line in r.iter_lines():
                lines.append(line)
        assert '"error"' in "".join(lines) and "the step failed" in "".join(lines)
        assert "[DONE]" not in "".join(lines)
        assert server.complete().status_code == 500
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="the step failed"):
                list(client.completions.create(model="fake", prompt="x", stream=True))
        ended = 'nearfield_requests_total{finish_reason="error",model_name="fake"} 3.0'
        assert ended in server.http.get("/metrics").text


def test_a_bug_while_a_reply_is_written_is_named_to_nobody(monkeypatch: pytest.MonkeyPatch, fake: Serving) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("secret path")

    monkeypatch.setattr("nearfield.server.completions.CompletionFormat._choice", broken)
    reply = fake.complete()
    assert reply.status_code == 500 and "secret" not in reply.text
    with pytest.raises(httpx.RemoteProtocolError):
        fake.complete(stream=True)
    assert idle(fake.loop)
    assert fake.chat().status_code == 200


def test_a_dead_engine_is_told() -> None:
    loop = started(FakeEngineLoop(step_s=0.05))
    with serving(loop=loop) as server:
        assert server.http.get("/health").json() == {"status": "ok"}
        with pytest.raises(httpx.RemoteProtocolError):
            with server.http.stream("POST", "/v1/completions", json={
                    "model": "fake", "prompt": "x", "stream": True, "max_tokens": 400, "ignore_eos": True}) as reply:
                for number, _ in enumerate(reply.iter_lines()):
                    if number == 2:
                        loop.die()
        assert server.http.get("/health").status_code == server.http.get("/ready").status_code == 503
        reply = server.chat()
        assert reply.status_code == 503 and "retry-after" in reply.headers


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEEP_ALIVE_SECONDS", 0.05)
    with serving(loop=started(FakeEngineLoop(step_s=0.4))) as server:
        text = server.complete(stream=True, max_tokens=2).text
        assert text.startswith(": keep-alive\n\n: keep-alive\n\n") and text.endswith("data: [DONE]\n\n")
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            assert list(client.completions.create(model="fake", prompt="x", max_tokens=2, stream=True))


def test_a_reader_that_stalls_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STALL_SECONDS", 0.2)
    text = "x" * (1 << 20)
    monkeypatch.setattr(FakeEngineLoop, "_show", lambda *_args: (text, None))
    loop = started(FakeEngineLoop())
    with serving(loop=loop) as server, httpx.stream("POST", f"{server.url}/v1/completions", timeout=30, json={
            "model": "fake", "prompt": "x", "stream": True, "max_tokens": 60, "ignore_eos": True}) as reply:
        assert eventually(lambda: loop.stats().running == 0)
        time.sleep(0.5)
        with pytest.raises(httpx.RemoteProtocolError):
            reply.read()
