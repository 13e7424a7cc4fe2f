"""POST /v1/chat/completions."""

from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nearfield.core.request import Output, TokenLogprob
from nearfield.core.types import FinishReason
from nearfield.server.answers import Answer, finite, respond
from nearfield.server.body import read_body
from nearfield.server.prompt import Job, chat_job
from nearfield.server.schema import ChatBody
from nearfield.server.service import Service, Tokenizer
from nearfield.server.tool_calls import Call, ToolCallParser


async def chat(service: Service, request: Request) -> Response:
    """Answer a chat, whole or as a stream."""
    body = await read_body(request, ChatBody)
    job = await chat_job(service, body, request.state.tenant)
    return await respond(service, request, body, job, ChatFormat(service, body, job))


class ChatFormat:
    """OpenAI's chat.completion and chat.completion.chunk."""

    def __init__(self, service: Service, body: ChatBody, job: Job) -> None:
        self._head = {"id": job.id, "created": job.created, "model": service.name}
        self._tokenizer = service.tokenizer
        self._logprobs = bool(body.logprobs)
        self._usage_asked = body.stream_options is not None and body.stream_options.include_usage is True
        tools = bool(body.tools) and body.tool_choice != "none"
        self._parsers = [ToolCallParser(f"{job.id} {i}") for i in range(len(job.requests))] if tools else None
        self._started: set[int] = set()

    def events(self, index: int, output: Output) -> Iterator[dict[str, Any]]:
        """The role first, then what can be shown, then the reason, each in an event of its own kind."""
        if index not in self._started:
            self._started.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""})
        text, calls = self._parse(index, output.text, last=output.finish_reason is not None)
        if text or (self._logprobs and output.logprobs):
            yield self._chunk(index, {"content": text}, logprobs=output.logprobs)
        for number, call in calls:
            yield self._chunk(index, {"tool_calls": [_call_body(call, number)]})
        if output.finish_reason is not None:
            yield self._chunk(index, {}, finish=self._finish(index, output.finish_reason))

    def closing_event(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], **fields}

    def reply(self, answers: Sequence[Answer], usage: dict[str, Any]) -> dict[str, Any]:
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        text, calls = self._parse(index, answer.text, last=True)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message["tool_calls"] = [_call_body(call) for _, call in calls]
            message["content"] = text.strip() or None
        return {"index": index, "message": message, "logprobs": self._tokens(answer.logprobs),
                "finish_reason": self._finish(index, answer.finish_reason)}

    def _chunk(self, index: int, delta: dict[str, Any], *, logprobs: Sequence[TokenLogprob] = (),
               finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish,
                  "logprobs": self._tokens(logprobs) if logprobs else None}
        usage = {"usage": None} if self._usage_asked else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage}

    def _parse(self, index: int, text: str, *, last: bool) -> tuple[str, list[tuple[int, Call]]]:
        """What of `text` is content, and the calls that it completes, numbered from the answer's first."""
        if self._parsers is None:
            return text, []
        parser = self._parsers[index]
        first = parser.found
        shown, calls = parser.push(text)
        if last:
            shown += parser.finish()
        return shown, list(enumerate(calls, first))

    def _finish(self, index: int, reason: FinishReason | None) -> str | None:
        if reason is FinishReason.STOP and self._parsers is not None and self._parsers[index].found:
            return "tool_calls"
        return reason.value if reason else None

    def _tokens(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [{**_token(self._tokenizer, item.token_id, item.logprob),
                    "top_logprobs": [_token(self._tokenizer, token, value) for token, value in item.top]}
                   for item in logprobs]
        return {"content": content, "refusal": None}


def _token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}


def _call_body(call: Call, number: int | None = None) -> dict[str, Any]:
    """A call; in a stream it carries its number."""
    body = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return body if number is None else {"index": number, **body}
