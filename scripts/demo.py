"""The main job in half a minute: serve the pocket model, ask it several things at once, show the figures.

Talks to the server as anybody would: over HTTP, through the `openai` client. Exits 1, with the end of
the server's log, when anything goes wrong.
"""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from openai import AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletionMessageParam

NEARFIELD = Path(sys.executable).with_name("nearfield")
SYSTEM = ("You are Pocket, a small model made by Nearfield. Answer the user's questions. "
          "Help with sums and stories. Be polite. Give short answers.")
QUESTIONS = (
    "What is 7 + 5?",
    "Tell me a story about a fox named Pip.",
    "What is the capital of France?",
    "What is the opposite of hot?",
    "Tell me a story.",
    "Who are you?",
)
START_S, ANSWER_S, STOP_S = 120, 120, 30
"""Seconds after which the demo gives up waiting for the server to start, to answer and to stop."""


class DemoError(Exception):
    """The demo did not go as it should."""


@dataclass(frozen=True)
class Answer:
    """What came back for one question, and how quickly. Times in seconds."""

    question: str
    text: str
    ttft: float
    wall: float
    prompt_tokens: int
    cached_tokens: int
    tokens: int

    @property
    def rate(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / max(self.wall - self.ttft, 1e-9)


def main() -> int:
    with tempfile.TemporaryFile("w+") as log:
        try:
            with serving(log) as url:
                show(asyncio.run(converse(url)), max_batch(url))
        except (DemoError, OpenAIError, OSError) as error:
            log.seek(0)
            tail = "".join(log.readlines()[-30:])
            print(f"demo: {error}\nthe end of the server's log:\n{tail}", file=sys.stderr)
            return 1
    return 0


@contextmanager
def serving(log: IO[str]) -> Iterator[str]:
    """A server of the pocket model on a free port, from healthy to stopped; gives its base URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    start = time.perf_counter()
    server = subprocess.Popen([NEARFIELD, "serve", "--port", str(port)], stdout=log, stderr=log)
    try:
        wait_healthy(server, url, start + START_S)
        print(f"serving the pocket model at {url}/v1, ready after {time.perf_counter() - start:.1f} s\n")
        yield url
        server.send_signal(signal.SIGTERM)
        if status := server.wait(STOP_S):
            raise DemoError(f"the server ended with status {status} after SIGTERM")
        print("\nserver stopped")
    except subprocess.TimeoutExpired:
        raise DemoError(f"the server did not stop within {STOP_S} s of SIGTERM") from None
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_healthy(server: subprocess.Popen[bytes], url: str, deadline: float) -> None:
    """Return when /health answers 200. Raises DemoError."""
    while time.perf_counter() < deadline:
        if server.poll() is not None:
            raise DemoError(f"the server ended at start with status {server.returncode}")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.05)
    raise DemoError(f"the server was not healthy within {START_S} s")


async def converse(url: str) -> list[Answer]:
    """Ask all the questions at once."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=ANSWER_S, max_retries=0) as client:
        model = (await client.models.list()).data[0].id
        return await asyncio.gather(*(ask(client, model, question) for question in QUESTIONS))


async def ask(client: AsyncOpenAI, model: str, question: str) -> Answer:
    """Stream one answer."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    start = time.perf_counter()
    stream = await client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=120, stream=True,
        stream_options={"include_usage": True})
    text, ttft, usage = "", 0.0, None
    async for chunk in stream:
        usage = chunk.usage or usage
        if piece := chunk.choices[0].delta.content if chunk.choices else None:
            ttft = ttft or time.perf_counter() - start
            text += piece
    if usage is None or not text.strip():
        raise DemoError(f"no answer, or no usage, came back for {question!r}")
    details = usage.prompt_tokens_details
    return Answer(question, text, ttft, time.perf_counter() - start, usage.prompt_tokens,
                  (details and details.cached_tokens) or 0, usage.completion_tokens)


def max_batch(url: str) -> int:
    """The largest batch that the server has run, from its metrics. Raises DemoError."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        metrics = response.read().decode()
    found = re.search(r"^nearfield_batch_size_max(?:\{.*\})? ([0-9.e+]+)$", metrics, re.MULTILINE)
    if found is None:
        raise DemoError("/metrics has no nearfield_batch_size_max")
    return int(float(found[1]))


def show(answers: list[Answer], batch: int) -> None:
    """Print the answers, then the figures. Raises DemoError when nothing was shared or batched."""
    for answer in answers:
        print(f"> {answer.question}\n{answer.text.strip()}\n")
    print(f"{'request':<48}{'TTFT, ms':>10}{'tokens':>8}{'tokens/s':>10}{'prompt':>8}{'cached':>8}")
    for answer in answers:
        print(f"{answer.question:<48}{answer.ttft * 1000:>10.0f}{answer.tokens:>8}{answer.rate:>10.0f}"
              f"{answer.prompt_tokens:>8}{answer.cached_tokens:>8}")
    cached = sum(answer.cached_tokens for answer in answers)
    print(f"\n{len(answers)} requests at once: batch size reached {batch}, {cached} prompt tokens cached")
    if batch < 2 or not cached:
        raise DemoError("the requests at once were not batched, or shared no prefix")


if __name__ == "__main__":
    sys.exit(main())
