"""Signals, in a process of their own: the first drains, the second stops at once."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from nearfield.core.errors import ConfigError
from nearfield.server.run import bind
from tests.server.serving import eventually

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Process:
    """A server process, and a pool of clients."""

    popen: subprocess.Popen[str]
    url: str
    pool: ThreadPoolExecutor

    def ask(self, tokens: int, *, stream: bool) -> Future[httpx.Response]:
        """Start a request of `tokens` x 20 ms."""
        body = {"model": "fake", "prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": stream}
        return self.pool.submit(httpx.post, f"{self.url}/v1/completions", json=body, timeout=60)

    def runs(self, count: int) -> bool:
        """Whether so many requests come to run."""
        line = f'vllm:num_requests_running{{model_name="fake"}} {count}.0'
        return eventually(lambda: line in httpx.get(f"{self.url}/metrics").text)

    def drains(self) -> bool:
        """Whether it comes to refuse more of them."""
        return eventually(lambda: httpx.get(f"{self.url}/ready").status_code == 503)


@pytest.fixture
def process() -> Iterator[Process]:
    popen = subprocess.Popen([sys.executable, "-m", "tests.server.serve_double"], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with popen, ThreadPoolExecutor(8) as pool:
        try:
            assert popen.stdout is not None
            url = f"http://127.0.0.1:{popen.stdout.readline().strip()}"
            for _ in range(200):
                try:
                    httpx.get(f"{url}/health")
                    break
                except httpx.ConnectError:
                    time.sleep(0.02)
            yield Process(popen, url, pool)
        finally:
            popen.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(process: Process, number: signal.Signals) -> None:
    running = [process.ask(75, stream=stream) for stream in (False, True)]
    assert process.runs(2)
    process.popen.send_signal(number)
    assert process.drains()
    health = httpx.get(f"{process.url}/health")
    assert (health.status_code, health.json()) == (200, {"status": "draining"})
    refused = process.ask(1, stream=False).result()
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
    plain, stream = (future.result() for future in running)
    assert plain.json()["usage"]["completion_tokens"] == 75
    assert stream.text.endswith("data: [DONE]\n\n")
    assert process.popen.wait(timeout=60) == 0
    assert process.popen.stderr is not None and "Traceback" not in process.popen.stderr.read()


def test_the_second_signal_stops_at_once(process: Process) -> None:
    running = [process.ask(500, stream=stream) for stream in (False, True)]
    assert process.runs(2)
    process.popen.send_signal(signal.SIGTERM)
    assert process.drains()
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(timeout=20) == 1      # before the answers end
    for future in running:
        try:
            assert future.result().status_code == 503
        except httpx.TransportError:
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(process.url)


def test_an_idle_server_stops_quickly_even_with_open_connections(process: Process) -> None:
    with httpx.Client() as client:
        client.get(f"{process.url}/health")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(timeout=20) == 0


def test_a_taken_port_is_one_clear_line() -> None:
    with bind("127.0.0.1", 0) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use; choose another with --port"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="can not listen on no.such.host.invalid"):
        bind("no.such.host.invalid", 0)


def test_replies_are_not_held_back_by_nagle() -> None:
    with bind("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP
