"""How long an answer may become: counts a prompt through the engine, and lowers max_tokens to what is paid for.

The engine's own `/tokenize` counts (Nearfield's and vLLM's answer alike); an engine without one has its prompts
taken as one token a byte, which is more than they are.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Scope

from nearfield.node.errors import NodeError
from nearfield.node.requested import is_chat
from nearfield.node.wire import ask

TEMPLATE_TOKENS = 256
"""What a chat template may add to the bytes of a request, where it can not be counted."""
LIMITS = ("max_tokens", "max_completion_tokens")
COUNTED_CHAT = ("model", "messages", "tools", "chat_template_kwargs")
COUNTED_TEXT = ("model", "prompt", "add_special_tokens")


@dataclass(frozen=True)
class Prompt:
    """A prompt's size. tokens: of all prompts together, at least as many as they have; context: what the engine
    holds of one request, where it says so."""

    tokens: int
    context: int | None = None


def answers(body: dict[str, Any]) -> int:
    """How many answers a request asks for, its prompts times `n`. Raises NodeError (400) where that is no number."""
    wanted = 1
    for name in ("n", "best_of"):
        wanted = max(wanted, _count(body, name) or 1)
    prompt = body.get("prompt")
    many = isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt)
    return wanted * (len(prompt) if many and isinstance(prompt, list) else 1)


def longest(body: dict[str, Any]) -> int | None:
    """The max_tokens that a request asks for, None without one. Raises NodeError (400) where it is no number."""
    given = [limit for name in LIMITS if (limit := _count(body, name)) is not None]
    return min(given, default=None)


def capped(body: dict[str, Any], affordable: int, prompt: Prompt) -> dict[str, Any]:
    """`body`, so that none of its answers is longer than `affordable` tokens."""
    wanted = longest(body)
    if wanted is not None:
        return {**body, **{name: min(body[name], affordable) for name in LIMITS if body.get(name) is not None}}
    if prompt.context is not None and prompt.tokens + affordable >= prompt.context:
        # All that fits is paid for, and asking for more than fits is an error.
        return body
    return {**body, "max_tokens": affordable}


async def count_prompt(engine: ASGIApp, scope: Scope, body: dict[str, Any]) -> Prompt:
    """The prompt's size, asked of `engine`; an upper bound where it does not say. `scope` is the request's: of chats
    the messages are the prompt, and else the field `prompt`."""
    chat = is_chat(scope["path"])
    prompt = None if chat else body.get("prompt")
    if isinstance(prompt, list):
        ids = [item for item in prompt if isinstance(item, int)]
        return Prompt(len(ids)) if len(ids) == len(prompt) else _bound(body)
    asked = orjson.dumps({name: body[name] for name in (COUNTED_CHAT if chat else COUNTED_TEXT)
                          if body.get(name) is not None})
    status, answer = await ask(engine, scope, "POST", "/tokenize", asked)
    if status != 200:
        return _bound(body)
    try:
        found = orjson.loads(answer)
        count, context = found["count"], found.get("max_model_len")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return _bound(body)
    if type(count) is not int or count < 0:
        return _bound(body)
    return Prompt(count, context if type(context) is int else None)


def _bound(body: dict[str, Any]) -> Prompt:
    return Prompt(len(orjson.dumps(body)) + TEMPLATE_TOKENS)


def _count(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise NodeError(400, f"{name} must be a whole number of at least 1")
    return value
