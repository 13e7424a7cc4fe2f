"""From outputs to a reply, in JSON or as a stream: what chat and completions have in common.

A `Format` is what differs between them: the shape of an event and of the whole reply.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from nearfield.core.request import Output, TokenLogprob
from nearfield.core.types import FinishReason
from nearfield.server.errors import Json
from nearfield.server.generation import Generation
from nearfield.server.prompt import Job
from nearfield.server.receipts import Receipts, asked_receipts
from nearfield.server.schema import Generate
from nearfield.server.service import Service
from nearfield.server.stream import (
    DONE,
    KEEP_ALIVE,
    KEEP_ALIVE_SECONDS,
    EventStream,
    event,
    unless_disconnected,
)

LOWEST_LOGPROB = -9999.0
"""Written for minus infinity, which JSON has no number for."""


@dataclass
class Answer:
    """One answer as it grows."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: Output | None = None

    def add(self, output: Output) -> None:
        """Append what a step brought."""
        self.pieces.append(output.text)
        self.logprobs.extend(output.logprobs)
        self.last = output

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.last.finish_reason if self.last else None


class Format(Protocol):
    """The shape of an endpoint's replies."""

    def events(self, index: int, output: Output) -> Iterator[dict[str, Any]]:
        """The stream's events for what a step brought to answer `index`."""

    def closing_event(self, fields: dict[str, Any]) -> dict[str, Any]:
        """An event of no answer, which says `fields` of the whole stream at its end, where that was asked for."""

    def reply(self, answers: Sequence[Answer], usage: dict[str, Any]) -> dict[str, Any]:
        """The whole reply."""


class Usage:
    """Counts tokens. A prompt counts once, however many answers it gets."""

    def __init__(self, job: Job) -> None:
        self._n = job.n
        self._last: dict[int, Output] = {}

    def add(self, index: int, output: Output) -> None:
        self._last[index] = output

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        firsts = [output for index, output in self._last.items() if index % self._n == 0]
        prompt = sum(output.prompt_tokens for output in firsts)
        completion = sum(output.completion_tokens for output in self._last.values())
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": sum(output.cached_tokens for output in firsts)}}


class Whole:
    """A reply as it grows. Also who has the outputs afterwards makes the reply of them by this."""

    def __init__(self, job: Job, form: Format) -> None:
        self._answers = [Answer() for _ in job.requests]
        self._usage, self._form = Usage(job), form

    def add(self, index: int, output: Output) -> None:
        """What a step brought to answer `index`."""
        self._answers[index].add(output)
        self._usage.add(index, output)

    def body(self) -> dict[str, Any]:
        """The reply, once all answers have ended."""
        return self._form.reply(self._answers, self._usage.body())


async def respond(service: Service, request: Request, body: Generate, job: Job, form: Format) -> Response:
    """Run `job` and answer. The engine has taken every request in before a status is sent.

    Raises as EngineLoop.submit does, and ClientDisconnect; whatever happens, nothing is left running.
    """
    receipts = asked_receipts(service.notary, request, job)
    generation = Generation(service, receipts.requests)
    generation.start()
    if body.stream:
        include_usage = body.stream_options is not None and body.stream_options.include_usage is True
        return EventStream(_events(generation, form, Usage(job), receipts, include_usage), generation.cancel)
    try:
        return Json(await unless_disconnected(request.receive, _reply(generation, form, job, receipts)))
    finally:
        generation.cancel()


async def _events(generation: Generation, form: Format, usage: Usage, receipts: Receipts,
                  include_usage: bool) -> AsyncIterator[bytes]:
    async for batch in generation.batches(KEEP_ALIVE_SECONDS):
        chunk: list[bytes] = []
        for index, output in batch:
            usage.add(index, output)
            receipts.add(index, output)
            chunk.extend(map(event, form.events(index, output)))
        if chunk or not batch:
            yield b"".join(chunk) or KEEP_ALIVE
    certified = await receipts.certify()
    if include_usage:
        yield event(form.closing_event({"usage": usage.body()}))
    if certified:
        yield event(form.closing_event({"receipts": certified}))
    yield DONE


async def _reply(generation: Generation, form: Format, job: Job, receipts: Receipts) -> dict[str, Any]:
    whole = Whole(job, form)
    async for batch in generation.batches(KEEP_ALIVE_SECONDS):
        for index, output in batch:
            whole.add(index, output)
            receipts.add(index, output)
    await receipts.certify()
    return whole.body()


def finite(logprob: float) -> float:
    """A log-probability as JSON can write it."""
    return max(logprob, LOWEST_LOGPROB)
