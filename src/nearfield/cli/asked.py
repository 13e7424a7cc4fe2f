"""What a client asked for, out of the request as it was sent: read by the code that a server runs, so that both read it
alike."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nearfield.core.errors import InvalidRequestError
from nearfield.core.types import TokenId
from nearfield.engine.build import Loaded
from nearfield.engine.loop import EngineLoop
from nearfield.node.exchange import CARRIED
from nearfield.proof.claims import Known
from nearfield.proof.receipt import Receipt
from nearfield.server.answers import Format
from nearfield.server.body import decode
from nearfield.server.chat import ChatFormat
from nearfield.server.completions import CompletionFormat
from nearfield.server.errors import ApiError
from nearfield.server.prompt import Job, chat_job, completion_job
from nearfield.server.schema import ChatBody, CompletionBody, StreamOptions
from nearfield.server.service import Service, make_service


@dataclass(frozen=True)
class Asked:
    """A request as a server reads it, and what it makes of that."""

    service: Service
    body: ChatBody | CompletionBody
    job: Job

    @property
    def stream(self) -> bool:
        """Whether the answer is to come as a stream."""
        return bool(self.body.stream)

    @property
    def tools(self) -> bool:
        """Whether the server takes calls of tools out of the text."""
        return isinstance(self.body, ChatBody) and bool(self.body.tools) and self.body.tool_choice != "none"

    def known(self, index: int) -> Known:
        """What the request alone tells of its answer `index`."""
        request = self.job.requests[index]
        return Known(prompt_ids=request.prompt_ids, params=request.params, index=index,
                     sample_index=request.sample_index)

    def answered(self, receipt: Receipt) -> Job:
        """The request as the response was given for it that `receipt` is of."""
        return replace(self.job, id=receipt.response_id, created=receipt.created)

    def form(self, job: Job, *, usage: bool = False) -> Format:
        """What makes the reply, or the events of a stream. usage: those tell the usage, though it was not asked for,
        as a node has it."""
        told = {"stream_options": StreamOptions(include_usage=True)} if usage else {}
        body = self.body.model_copy(update=told)
        if isinstance(body, ChatBody):
            return ChatFormat(self.service, body, job)
        return CompletionFormat(self.service, body, job)


def read_request(data: bytes) -> dict[str, Any] | None:
    """The body of a request to /v1/chat/completions or /v1/completions; None where `data` is none."""
    value = _json(data)
    return value if isinstance(value, dict) and ("messages" in value or "prompt" in value) else None


def carried(body: Mapping[str, Any]) -> dict[str, str]:
    """The headers in a body's field, where they went by a router; their names in small letters."""
    given = body.get(CARRIED)
    return {str(name).lower(): str(value) for name, value in given.items()} if isinstance(given, Mapping) else {}


def asked_by(loaded: Loaded, body: Mapping[str, Any], at: int) -> Asked:
    """What a request's body asks for at a time, in Unix seconds. Raises InvalidRequestError."""
    service = make_service(loaded, EngineLoop(loaded.engine), name=str(body.get("model")), created=0)
    data = json.dumps({name: value for name, value in body.items() if name != CARRIED}).encode()
    try:
        if "messages" in body:
            chat = decode(data, ChatBody)
            return Asked(service, chat, asyncio.run(chat_job(service, chat, "", at)))
        completion = decode(data, CompletionBody)
        return Asked(service, completion, asyncio.run(completion_job(service, completion, "")))
    except ApiError as error:
        raise InvalidRequestError(f"the request: {error.message}") from None


def read_prompt(loaded: Loaded, data: bytes) -> tuple[TokenId, ...]:
    """The ids of a prompt by itself: a JSON list of them, or its text. Raises InvalidRequestError."""
    value = _json(data)
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return tuple(value)
    if loaded.tokenizer is None:
        raise InvalidRequestError(f"{loaded.name} has no tokenizer; give the prompt as a JSON list of ids")
    try:
        return tuple(loaded.tokenizer.encode(data.decode()))
    except UnicodeDecodeError:
        raise InvalidRequestError("the prompt is neither JSON nor UTF-8 text") from None


def _json(data: bytes) -> object:
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value
