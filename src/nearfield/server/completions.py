"""POST /v1/completions."""

from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nearfield.core.request import Output, TokenLogprob
from nearfield.server.answers import Answer, finite, respond
from nearfield.server.body import read_body
from nearfield.server.prompt import Job, completion_job
from nearfield.server.schema import CompletionBody
from nearfield.server.service import Service, Tokenizer


async def completions(service: Service, request: Request) -> Response:
    """Continue one or many prompts, whole or as a stream."""
    body = await read_body(request, CompletionBody)
    job = await completion_job(service, body, request.state.tenant)
    return await respond(service, request, body, job, CompletionFormat(service, body, job))


class CompletionFormat:
    """OpenAI's text_completion; an event of a stream has the same shape as the reply."""

    def __init__(self, service: Service, body: CompletionBody, job: Job) -> None:
        self._head = {"id": job.id, "object": "text_completion", "created": job.created,
                      "model": service.name}
        self._tokenizer = service.tokenizer
        self._logprobs = body.logprobs is not None
        self._usage_asked = body.stream_options is not None and body.stream_options.include_usage is True
        self._offsets = [0] * len(job.requests)

    def events(self, index: int, output: Output) -> Iterator[dict[str, Any]]:
        if not (output.text or output.finish_reason or (self._logprobs and output.logprobs)):
            return
        usage = {"usage": None} if self._usage_asked else {}
        choice = self._choice(index, output.text, output.logprobs, output.finish_reason)
        yield {**self._head, "choices": [choice], **usage}

    def closing_event(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "choices": [], **fields}

    def reply(self, answers: Sequence[Answer], usage: dict[str, Any]) -> dict[str, Any]:
        choices = [self._choice(index, answer.text, answer.logprobs, answer.finish_reason)
                   for index, answer in enumerate(answers)]
        return {**self._head, "choices": choices, "usage": usage}

    def _choice(self, index: int, text: str, logprobs: Sequence[TokenLogprob],
                finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": finish,
                "logprobs": self._tokens(index, logprobs) if self._logprobs else None}

    def _tokens(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Four lists of one length. Offsets count the characters of the tokens before, over all events."""
        texts = [_text(self._tokenizer, item.token_id) for item in logprobs]
        offsets = []
        for text in texts:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(text)
        return {"tokens": texts, "token_logprobs": [finite(item.logprob) for item in logprobs],
                "top_logprobs": [self._top(item) for item in logprobs], "text_offset": offsets}

    def _top(self, item: TokenLogprob) -> dict[str, float]:
        """The alternatives, and the chosen token, by their text; of equal texts the likeliest counts."""
        top: dict[str, float] = {}
        for token_id, logprob in (*item.top, (item.token_id, item.logprob)):
            top.setdefault(_text(self._tokenizer, token_id), finite(logprob))
        return top


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")
