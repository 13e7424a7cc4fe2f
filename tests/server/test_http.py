"""Bytes that no HTTP library would send, over a plain socket; and what stands in a head."""

import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from nearfield.server import connection
from nearfield.server.app import ROUTES
from nearfield.server.keys import KeyRing
from tests.server.serving import Serving, serving

BODY = b'{"prompt":"x"}'


def talk(server: Serving, data: bytes, seconds: float = 5) -> bytes:
    """Send `data` and read until the server closes, or for `seconds`."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as sock:
        received = b""
        try:
            sock.sendall(data)
            while chunk := sock.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionError):
            pass
        return received


def post(*headers: bytes, body: bytes = BODY, path: bytes = b"/tokenize", host: bytes = b"Host: localhost") -> bytes:
    lines = (b"POST " + path + b" HTTP/1.1", host, b"Connection: close", *headers)
    return b"\r\n".join(line for line in lines if line) + b"\r\n\r\n" + body


def status(reply: bytes) -> int:
    """The reply's status; 0 when the connection broke before one came."""
    return int(reply.split(b" ", 2)[1]) if reply else 0


LENGTH = b"Content-Length: %d" % len(BODY)
TYPE = b"Content-Type: application/json"


def test_the_plain_one_works(fake: Serving) -> None:
    assert status(talk(fake, post(TYPE, LENGTH))) == 200


@pytest.mark.parametrize(("data", "expected"), [
    (post(TYPE, LENGTH, b"X-Big: " + b"a" * 70_000), {0, 400, 431}),
    (post(TYPE, LENGTH, b"X-Big: " + b"a" * 17_000), {400, 431}),
    (post(TYPE, LENGTH, *(b"X-%d: a" % i for i in range(1000))), {400, 431}),
    (post(TYPE, LENGTH, *(b"X-%d: a" % i for i in range(110))), {431}),
    (post(TYPE, LENGTH, b"Transfer-Encoding: chunked", body=b"e\r\n" + BODY + b"\r\n0\r\n\r\n"), {400}),
    (post(TYPE, b"Content-Length: -1"), {400}),
    (post(TYPE, LENGTH, b"Content-Length: 3"), {400}),
    (post(TYPE, b"Content-Length: 1000000000", body=b"x"), {413}),
    (post(TYPE, b"Transfer-Encoding: chunked", body=b"FFFFFFFFFFFFFFFFFFFFFF\r\n"), {400}),
    (post(TYPE, LENGTH, host=b""), {400}),
    (post(TYPE, LENGTH, host=b"Host: a/b?c"), {400}),
    (post(TYPE, LENGTH, host=b"Host: a\r\nHost: b"), {400}),
    (post(LENGTH), {415}),
    (post(LENGTH, b"Content-Type: text/plain"), {415}),
    (post(LENGTH, b"Content-Type: multipart/form-data; boundary=x"), {415}),
    (post(TYPE, LENGTH, b"Content-Encoding: gzip"), {415}),
    (post(TYPE, LENGTH, b"Origin: https://evil.example"), {403}),
    (post(TYPE, LENGTH, b"Origin: null"), {403}),
    (post(TYPE, LENGTH, b"Origin: http://localhost.evil.example"), {403}),
    (post(TYPE, LENGTH, b"Origin: http://localhost:3000"), {200}),
    (post(TYPE, LENGTH, host=b"Host: [::1]:8000"), {200}),
    (post(TYPE, LENGTH, path=b"@google.com"), {400, 404}),
    (post(TYPE, LENGTH, path=b"//tokenize"), {404}),
    (post(TYPE, LENGTH, path=b"/v1/../tokenize"), {404}),
    (post(TYPE, LENGTH, path=b"/Tokenize"), {404}),
    (post(TYPE, LENGTH, path=b"/tokenize/"), {404}),
    (b"\x16\x03\x01\x02\x00", {400}),
], ids=lambda v: repr(v)[:90] if isinstance(v, bytes) else None)
def test_heads(fake: Serving, data: bytes, expected: set[int]) -> None:
    assert status(talk(fake, data)) in expected
    assert fake.http.get("/health").status_code == 200


def test_errors_of_the_router_have_the_same_shape(fake: Serving) -> None:
    for reply, code in ((fake.http.get("/nope"), 404), (fake.http.get("/tokenize"), 405),
                        (fake.http.options("/v1/models"), 405), (fake.http.delete("/health"), 405)):
        assert reply.status_code == code
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_request_ids(fake: Serving) -> None:
    assert fake.http.get("/health", headers={"X-Request-Id": "a.B-9_"}).headers["x-request-id"] == "a.B-9_"
    for bad in (b"a b", b"x" * 129, b"\x1b[31m", b""):
        reply = fake.http.get("/health", headers=[(b"X-Request-Id", bad)])
        assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
    assert "x-request-id" in fake.http.get("/nope").headers


def test_a_head_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch, fake: Serving) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    for first in (b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as sock:    # 15 s is the usual end
            sock.sendall(first)
            reply = b""
            while first and b'"ok"' not in reply:
                reply += sock.recv(65536)
            sock.sendall(b"GET /health HT")
            assert sock.recv(65536) == b""


def test_a_slow_reply_is_not_cut_off_with_it(monkeypatch: pytest.MonkeyPatch, fake: Serving) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    head, last = post(TYPE, LENGTH)[:-1], BODY[-1:]
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as sock:
        sock.sendall(head)
        time.sleep(0.5)
        sock.sendall(last)
        assert status(sock.recv(65536)) == 200


@pytest.fixture(scope="module")
def locked() -> Iterator[Serving]:
    with serving(keys=KeyRing(["alpha", "beta"])) as server:
        yield server


@pytest.mark.parametrize("header", [
    None, "", "Bearer", "Bearer wrong", "alpha", "Basic alpha", "Bearer alpha2", "Bearer alph",
])
def test_without_a_key_only_health_and_ready_answer(locked: Serving, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    paths = [(method, path) for method, path, _ in ROUTES]
    for method, path in [*paths, ("GET", "/nope"), ("GET", "/"), ("GET", "/health/"), ("GET", "//health"),
                         ("GET", "/metrics?api_key=alpha"), ("OPTIONS", "/v1/models")]:
        reply = locked.http.request(method, path, headers=headers)
        assert reply.status_code == (200 if path in ("/health", "/ready") else 401), path


@pytest.mark.parametrize("header", ["Bearer alpha", "bearer beta", "BEARER  alpha"])
def test_a_key_opens(locked: Serving, header: str) -> None:
    assert locked.http.get("/v1/models", headers={"Authorization": header}).status_code == 200


def test_two_keys_do_not_share_prefixes(locked: Serving) -> None:
    def cached(key: str) -> int:
        reply = locked.http.post("/v1/completions", headers={"Authorization": f"Bearer {key}"},
                                 json={"model": "fake", "prompt": "s" * 100, "max_tokens": 1})
        count: int = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    assert cached("alpha") == 0
    assert cached("beta") == 0
    assert cached("alpha") == cached("beta") > 0


def test_a_long_prompt_holds_nobody_up(fake: Serving) -> None:
    """While 8 MiB are tokenised, the slowest of many small requests takes a small part of that time."""
    big = threading.Thread(target=fake.http.post, args=("/tokenize",), kwargs={"json": {"prompt": "word " * (1 << 20)}})
    begin = time.perf_counter()
    big.start()
    slowest, count = 0.0, 0
    while big.is_alive():
        started = time.perf_counter()
        assert fake.http.get("/health").status_code == 200
        slowest, count = max(slowest, time.perf_counter() - started), count + 1
    big.join()
    assert count > 3 and slowest < (time.perf_counter() - begin) / 2
