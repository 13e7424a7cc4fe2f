"""What a client knows of an answer, out of its files: the request as it was sent, and what was delivered.

A request's JSON becomes ids and options by the code that a server runs, so that both read it alike.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nearfield.core.errors import InvalidRequestError
from nearfield.core.request import Request, SamplingParams
from nearfield.engine.build import Loaded
from nearfield.engine.loop import EngineLoop
from nearfield.proof.verify import Known
from nearfield.server.body import decode
from nearfield.server.errors import ApiError
from nearfield.server.prompt import chat_job, completion_job
from nearfield.server.schema import ChatBody, CompletionBody
from nearfield.server.service import make_service
from nearfield.server.tool_calls import ToolCallParser


@dataclass(frozen=True)
class Asked:
    """A prompt, or a whole request: what the engine was asked for, answer by answer. `options`: whether they too are
    the request's. tools: whether the server looks for calls of tools in the answers."""

    requests: tuple[Request, ...]
    options: bool
    tools: bool = False

    def known(self, index: int) -> Known:
        """What the request alone tells of its answer `index`; of a prompt by itself all answers are."""
        request = self.requests[index] if self.options and index < len(self.requests) else self.requests[0]
        if not self.options:
            return Known(prompt_ids=request.prompt_ids)
        return Known(prompt_ids=request.prompt_ids, params=request.params, index=index,
                     sample_index=request.sample_index, as_delivered=_split if self.tools else str)


def read_asked(loaded: Loaded, data: bytes) -> Asked:
    """A request of /v1/chat/completions or /v1/completions as JSON, a JSON list of token ids, or a prompt's text.

    Raises InvalidRequestError for what can not be read as any of them.
    """
    value = _json(data)
    if isinstance(value, Mapping) and ("messages" in value or "prompt" in value):
        return asked_by(loaded, value)
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        ids = tuple(value)
    elif loaded.tokenizer is None:
        raise InvalidRequestError(f"{loaded.name} has no tokenizer; give the prompt as a JSON list of ids")
    else:
        try:
            ids = tuple(loaded.tokenizer.encode(data.decode()))
        except UnicodeDecodeError:
            raise InvalidRequestError("the prompt is neither JSON nor UTF-8 text") from None
    return Asked((Request("asked", ids, SamplingParams()),), options=False)


def asked_by(loaded: Loaded, body: Mapping[str, Any]) -> Asked:
    """What the body of a request asks for. Raises InvalidRequestError."""
    service = make_service(loaded, EngineLoop(loaded.engine), name=str(body.get("model")), created=0)
    data = json.dumps(body).encode()
    try:
        if "messages" in body:
            job = asyncio.run(chat_job(service, decode(data, ChatBody), ""))
        else:
            job = asyncio.run(completion_job(service, decode(data, CompletionBody), ""))
    except ApiError as error:
        raise InvalidRequestError(f"the request: {error.message}") from None
    return Asked(job.requests, options=True, tools=bool(body.get("tools")) and body.get("tool_choice") != "none")


def with_reply(known: Known, reply: Mapping[str, Any], index: int) -> Known:
    """`known` with what the JSON of a reply tells of answer `index`.

    Calls of tools, which the server has taken out of the text, are put beside what was left of it; where the request
    is not known, they are not looked at. Usage is that of all answers.
    """
    choices, usage, text = reply.get("choices"), reply.get("usage"), None
    if isinstance(choices, Sequence) and index < len(choices) and isinstance(choices[index], Mapping):
        message = choices[index].get("message", choices[index])
        if isinstance(message, Mapping):
            text = message.get("content", message.get("text"))
            if calls := message.get("tool_calls"):
                text = None if known.params is None else _beside(text or "", map(_called, calls))
    billed = None
    if isinstance(usage, Mapping) and isinstance(choices, Sequence) and len(choices) == 1:
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        billed = (prompt, completion) if isinstance(prompt, int) and isinstance(completion, int) else None
    return replace(known, response_id=str(reply.get("id")), text=text if isinstance(text, str) else None, usage=billed)


def read_output(known: Known, data: bytes, index: int) -> Known:
    """`known` with what was delivered: the JSON of a reply, or the answer's text. Raises InvalidRequestError."""
    value = _json(data)
    if isinstance(value, Mapping) and "choices" in value:
        return with_reply(known, value, index)
    try:
        return replace(known, text=data.decode())
    except UnicodeDecodeError:
        raise InvalidRequestError("the output is neither JSON nor UTF-8 text") from None


def _split(text: str) -> str:
    """An answer's text as the server delivers it to who has given tools."""
    parser = ToolCallParser()
    shown, calls = parser.push(text)
    shown += parser.finish()
    return _beside(shown.strip(), ((call.name, call.arguments) for call in calls)) if calls else shown


def _called(call: Any) -> tuple[Any, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    return (function.get("name"), function.get("arguments")) if isinstance(function, Mapping) else (None, None)


def _beside(content: str, calls: Iterable[tuple[Any, Any]]) -> str:
    """Content and calls as one text, so that they can be compared."""
    return "\n".join([str(content), *(json.dumps(call) for call in calls)])


def _json(data: bytes) -> object:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value
