"""Which fields of requests and answers are encrypted, and the walk that changes them.

The tables are NEAR AI's (its proxy's and its SDK's): what always is, and what is more under X-Encrypt-All-Fields. They
are the same for chat and completions, whose fields have no name in common. A body is never changed in place.
"""

from collections.abc import Callable
from typing import Any

import orjson

from nearfield.node.errors import NodeError

Path = tuple[str, ...]
"""Keys of objects from the body down; "*" is each item of a list."""

_MESSAGE: tuple[Path, ...] = (("content",), ("reasoning_content",), ("reasoning",), ("audio", "data"))
_CALLS: tuple[Path, ...] = (
    ("refusal",),
    ("tool_calls", "*", "function", "name"), ("tool_calls", "*", "function", "arguments"),
    ("function_call", "name"), ("function_call", "arguments"),
)
_ENTRY: tuple[Path, ...] = (("token",), ("bytes",), ("top_logprobs", "*", "token"), ("top_logprobs", "*", "bytes"))


def _below(start: Path, *groups: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(start + path for group in groups for path in group)


_LOGPROBS = _below(("logprobs", "content", "*"), _ENTRY) + _below(("logprobs", "refusal", "*"), _ENTRY)
_REQUEST = _below(("messages", "*"), _MESSAGE) + (("prompt",), ("prompt", "*"))
_REQUEST_ALL = _below(("messages", "*"), _CALLS, (("name",),)) + (
    ("tools", "*", "function", "name"), ("tools", "*", "function", "description"),
    ("tools", "*", "function", "parameters"), ("tool_choice", "function", "name"), ("function_call", "name"),
)


def open_request(body: dict[str, Any], all_fields: bool, decrypt: Callable[[str, str], str]) -> dict[str, Any]:
    """A request with its encrypted strings in clear. decrypt: (ciphertext, place) -> text.

    What a client can not send as a string it encrypts as JSON: lists of content parts, the parameters of a tool.
    Empty strings stay. What is no string came in the clear, which its sender did not mean.

    Raises:
        NodeError: 400, naming the field.
    """
    def change(value: Any, place: str) -> Any:
        if value == "" or (place == "prompt" and isinstance(value, list)):      # whose items come next
            return value
        if not isinstance(value, str):
            raise NodeError(400, f"{place} is in the clear, and must be encrypted: a string in hexadecimal, of JSON "
                                 "where the text is none")
        text = decrypt(value, place)
        if place.endswith(".content"):
            return _parts(text)
        return _json(text, place) if place.endswith(".parameters") else text

    logprobs = body.get("logprobs")  # 0 asks for them too
    if all_fields and "prompt" in body and logprobs is not None and logprobs is not False:
        raise NodeError(400, "logprobs: a completion's have no encrypted form, and would show its text; leave them "
                             "out, or use /v1/chat/completions")
    for path in _REQUEST + _REQUEST_ALL if all_fields else _REQUEST:
        body = _rewrite(body, path, change)
    return body


def seal_answer(body: dict[str, Any], all_fields: bool, encrypt: Callable[[str], str], *,
                message: str) -> dict[str, Any]:
    """An answer, or a chunk of its stream, with its text encrypted. message: "message", or "delta" in a chunk.

    Empty strings and nulls stay. What is neither they nor a string is encrypted as JSON rather than shown.
    """
    def change(value: Any, place: str) -> Any:
        if value == "":
            return value
        if isinstance(value, list) and place.endswith(".content"):
            return [_rewrite(part, ("text",) if isinstance(part, dict) else (), change) for part in value]
        return encrypt(value if isinstance(value, str) else orjson.dumps(value).decode())

    fields = _below((message,), _MESSAGE, _CALLS) + _LOGPROBS if all_fields else _below((message,), _MESSAGE)
    for path in _below(("choices", "*"), fields, (("text",),)):
        body = _rewrite(body, path, change)
    return body


def _rewrite(value: Any, path: Path, change: Callable[[Any, str], Any], place: str = "") -> Any:
    """A copy of `value` where each thing at the end of `path` is `change(thing, its place)`; nulls are left alone."""
    if value is None:
        return None
    if not path:
        return change(value, place)
    step, rest = path[0], path[1:]
    if step == "*" and isinstance(value, list):
        return [_rewrite(item, rest, change, f"{place}[{index}]") for index, item in enumerate(value)]
    if step != "*" and isinstance(value, dict) and step in value:
        return {**value, step: _rewrite(value[step], rest, change, f"{place}.{step}" if place else step)}
    return value


def _parts(text: str) -> Any:
    """The content parts that `text` is the JSON of, or `text`: a user may well write a list of something else."""
    if not text.startswith("["):
        return text
    try:
        parts = orjson.loads(text)
    except ValueError:
        return text
    return parts if parts and all(isinstance(part, dict) and "type" in part for part in parts) else text


def _json(text: str, place: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        raise NodeError(400, f"{place}: what was encrypted is not JSON") from None
