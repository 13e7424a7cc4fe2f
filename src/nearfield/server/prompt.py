"""From a checked body to the engine's requests: prompts become ids, options become SamplingParams.

`n` answers to `p` prompts are n x p requests; request i answers prompt i // n, and its index in the
reply is i.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import orjson

from nearfield.core.errors import ContextLengthError
from nearfield.core.request import Request, SamplingParams
from nearfield.server.errors import bad_request
from nearfield.server.schema import (
    MAX_DEPTH,
    ChatBody,
    CompletionBody,
    Generate,
    Message,
    Tool,
    ToolCall,
    nested_over,
)
from nearfield.server.service import Service

MAX_ANSWERS = 128
LARGE_TEXT = 4096
"""Characters above which text is tokenised off the event loop; below, a thread would cost more time."""
TURN_SIZE = 64
"""Characters that a turn counts beside its own: the template's work, and what it writes around it."""

OPTIONS = ("temperature", "top_p", "top_k", "repetition_penalty", "min_tokens", "min_p", "presence_penalty",
           "frequency_penalty", "logit_bias", "seed", "n", "stop", "stop_token_ids",
           "include_stop_str_in_output", "ignore_eos", "skip_special_tokens")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One HTTP request as the engine sees it. created: when it was taken in, in Unix seconds."""

    id: str
    created: int
    requests: tuple[Request, ...]
    n: int


async def chat_job(service: Service, body: ChatBody, tenant: str, at: int | None = None) -> Job:
    """The requests of a chat, as it is read at a time (Unix seconds; None: now): templates may tell the date.

    Raises ApiError, InvalidRequestError.
    """
    created = int(time.time()) if at is None else at
    service.require_model(body.model)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    params = sampling(service, body, max_tokens=limit, logprobs=logprobs)
    tools = body.tools if body.tool_choice != "none" else None
    ids = await encode_chat(service, body.messages, tools=tools, variables=body.chat_template_kwargs, at=created)
    return _job(service, "chatcmpl", [ids], params, tenant, "messages", created)


async def completion_job(service: Service, body: CompletionBody, tenant: str) -> Job:
    """The requests of a completion. Raises ApiError, InvalidRequestError."""
    service.require_model(body.model)
    limit = body.max_tokens if body.max_tokens is not None else SamplingParams.max_tokens
    params = sampling(service, body, max_tokens=limit, logprobs=body.logprobs)
    if len(body.prompt) * params.n > MAX_ANSWERS:
        raise bad_request(
            f"{len(body.prompt)} prompts with n = {params.n} ask for more than {MAX_ANSWERS} answers", "n")
    add_special = body.add_special_tokens is not False
    prompts = []
    for prompt in body.prompt:
        if isinstance(prompt, str):
            prompts.append(await encode_text(service, prompt, add_special=add_special))
        else:
            check_ids(service, prompt, "prompt")
            prompts.append(prompt)
    return _job(service, "cmpl", prompts, params, tenant, "prompt", int(time.time()))


def sampling(service: Service, body: Generate, *, max_tokens: int | None,
             logprobs: int | None) -> SamplingParams:
    """The options of `body`; where it is silent the model's recommendation, else OpenAI's default."""
    check_ids(service, body.stop_token_ids or (), "stop_token_ids")
    check_ids(service, body.logit_bias or (), "logit_bias")
    given = {name: value for name in OPTIONS if (value := getattr(body, name)) is not None}
    return service.defaults.params(**given, max_tokens=max_tokens, logprobs=logprobs)


def check_ids(service: Service, ids: Sequence[int] | Mapping[int, float], field: str) -> None:
    """Raises ApiError (400) for a token id outside the vocabulary: it would reach past the logits."""
    if ids and (min(ids) < 0 or max(ids) >= service.vocab_size):
        wrong = next(i for i in ids if not 0 <= i < service.vocab_size)
        raise bad_request(f"{field}: token id {wrong} is not in 0..{service.vocab_size - 1}", field)


async def encode_text(service: Service, text: str, *, add_special: bool) -> list[int]:
    """Ids of a prompt in which special tokens may be spelt out."""
    return await _off_loop(service, len(text), service.tokenizer.encode, text, add_special=add_special)


async def encode_chat(service: Service, messages: Sequence[Message], *,
                      tools: Sequence[Tool] | None = None, variables: Mapping[str, Any] | None = None,
                      add_generation_prompt: bool = True, at: float | None = None) -> list[int]:
    """Ids of a chat at a time (Unix seconds; None: now).

    Raises ApiError when the model's template can not express it.
    """
    template = service.template
    if template is None:
        raise bad_request(f"{service.name} has no chat template; use /v1/completions", "messages")
    turns = [_turn(message, f"messages.{i}") for i, message in enumerate(messages)]
    size = sum(len(turn["content"]) + TURN_SIZE for turn in turns)

    def encode(listed: list[dict[str, Any]] | None) -> list[int]:
        return template.encode(service.tokenizer, turns, tools=listed, variables=variables,
                               add_generation_prompt=add_generation_prompt, at=at)

    if not tools:
        return await _off_loop(service, size, encode, None)
    ids = await _off_loop(service, size, encode, [tool.model_dump(exclude_none=True) for tool in tools])
    if ids == await _off_loop(service, size, encode, None):
        raise bad_request(f"the chat template of {service.name} has no place for tools", "tools")
    return ids


async def _off_loop(service: Service, size: int, function: Callable[P, T], *args: P.args,
                    **kwargs: P.kwargs) -> T:
    if size <= LARGE_TEXT:
        return function(*args, **kwargs)
    async with service.heavy:
        return await asyncio.to_thread(function, *args, **kwargs)


def _turn(message: Message, place: str) -> dict[str, Any]:
    """A message as chat templates expect it: arguments of calls are objects, there is no developer role."""
    turn: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role,
                            "content": message.content or ""}
    for name in ("name", "reasoning_content", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            turn[name] = value
    if message.tool_calls:
        place = f"{place}.tool_calls"
        turn["tool_calls"] = [_call(call, f"{place}.{i}") for i, call in enumerate(message.tool_calls)]
    return turn


def _call(call: ToolCall, place: str) -> dict[str, Any]:
    place = f"{place}.function.arguments"
    try:
        arguments = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        raise bad_request(f"{place}: is not valid JSON", place) from None
    if not isinstance(arguments, dict) or nested_over(arguments, MAX_DEPTH):
        raise bad_request(f"{place}: must be a JSON object, as text, at most {MAX_DEPTH} deep", place)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _job(service: Service, kind: str, prompts: Sequence[list[int]], params: SamplingParams, tenant: str,
         field: str, created: int) -> Job:
    for ids in prompts:
        _check_length(service, len(ids), params.max_tokens or 1, field)
    name = f"{kind}-{uuid.uuid4().hex}"
    requests = tuple(
        Request(request_id=f"{name}-{p * params.n + k}", prompt_ids=tuple(ids), params=params, sample_index=k,
                tenant=tenant)
        for p, ids in enumerate(prompts) for k in range(params.n))
    return Job(name, created, requests, params.n)


def _check_length(service: Service, prompt: int, answer: int, field: str) -> None:
    if not prompt:
        raise bad_request(f"{field}: the prompt is empty", field)
    if prompt + answer > service.max_context:
        raise ContextLengthError(
            f"the context holds {service.max_context} tokens; the prompt has {prompt} and max_tokens asks for "
            f"{answer}: shorten the prompt or lower max_tokens",
            field if prompt >= service.max_context else "max_tokens")
