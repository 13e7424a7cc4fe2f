"""Which fields of a body are encrypted, each by itself: those that carry what people and models say.

`convert` is applied to each text where it stands; an empty one stays empty. Values that are not text stay as they
are, for the schema of the engine to refuse. `every` is X-Encrypt-All-Fields: names and arguments of tools too.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

Convert = Callable[[str, str], str]
"""(text, name of its field) to text."""

_SAID = ("content", "reasoning_content", "reasoning")
_FUNCTION = ("name", "arguments", "description", "parameters")


def open_request(body: dict[str, Any], convert: Convert, every: bool) -> None:
    """Decrypt a request of chat or completions, in place.

    A content of several parts is their JSON in one ciphertext; so are a tool's parameters.
    """
    for place, message in _objects(body.get("messages"), "messages"):
        _message(message, convert, every, place)
        content = message.get("content")
        if isinstance(content, str) and isinstance(parts := _json(content), list):
            message["content"] = parts
    _text_or_list(body, "prompt", convert)
    if every:
        for place, tool in _objects(body.get("tools"), "tools"):
            _function(tool, convert, place)
        if isinstance(choice := body.get("tool_choice"), dict):
            _function(choice, convert, "tool_choice")


def seal_response(body: dict[str, Any], convert: Convert, every: bool) -> None:
    """Encrypt an answer, or a piece of a streamed one, of chat or completions, in place."""
    for place, choice in _objects(body.get("choices"), "choices"):
        _text(choice, "text", convert, place)
        for said in ("message", "delta"):
            if isinstance(message := choice.get(said), dict):
                for _, part in _objects(message.get("content"), "content"):
                    _text(part, "text", convert, place)
                _message(message, convert, every, f"{place}.{said}")
        if every and choice.get("logprobs") is not None:
            choice["logprobs"] = convert(orjson.dumps(choice["logprobs"]).decode(), f"{place}.logprobs")


def _message(message: dict[str, Any], convert: Convert, every: bool, place: str) -> None:
    for name in _SAID:
        _text(message, name, convert, place)
    if isinstance(audio := message.get("audio"), dict):
        _text(audio, "data", convert, f"{place}.audio")
    if not every:
        return
    for name in ("refusal", "name"):
        _text(message, name, convert, place)
    for call_place, call in _objects(message.get("tool_calls"), f"{place}.tool_calls"):
        _function(call, convert, call_place)
    if isinstance(former := message.get("function_call"), dict):
        _function({"function": former}, convert, f"{place}.function_call")


def _function(holder: dict[str, Any], convert: Convert, place: str) -> None:
    if not isinstance(function := holder.get("function"), dict):
        return
    for name in _FUNCTION:
        _text(function, name, convert, f"{place}.function")
    if isinstance(parameters := function.get("parameters"), str) and isinstance(_json(parameters), dict):
        function["parameters"] = _json(parameters)


def _text(holder: dict[str, Any], name: str, convert: Convert, place: str) -> None:
    if isinstance(value := holder.get(name), str) and value:
        holder[name] = convert(value, f"{place}.{name}")


def _text_or_list(holder: dict[str, Any], name: str, convert: Convert) -> None:
    value = holder.get(name)
    if isinstance(value, str) and value:
        holder[name] = convert(value, name)
    elif isinstance(value, list):
        holder[name] = [convert(item, f"{name}[{i}]") if isinstance(item, str) and item else item
                        for i, item in enumerate(value)]


def _objects(value: object, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place."""
    for i, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield f"{place}[{i}]", item


def _json(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
