"""A model's chat template: messages become the text, or the token ids, that the model was trained on.

The template is the model author's own Jinja program, run in `chat_sandbox`. encode() is what
serving uses: it differs from encoding the rendering only where a user's string spells a special
token, which stays plain text (see `chat_guard`).
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template

from nearfield.core.errors import InvalidRequestError, ModelError
from nearfield.core.types import TokenId
from nearfield.models.chat_guard import ChatGuard, copy_json, find_spellings
from nearfield.models.chat_sandbox import ChatEnvironment, render_variables
from nearfield.models.chat_stack import with_room
from nearfield.models.gguf_folder import origin
from nearfield.models.tokenizer import Tokenizer
from nearfield.models.tokenizer_files import read_bytes, read_json, read_tokenizer_files

MAX_TEMPLATE_BYTES = 1 << 20

_OWN_VARIABLES = ("messages", "tools", "add_generation_prompt")


class ChatTemplate:
    """A compiled template. Any thread may use it at any time.

    sources: name -> Jinja source, with a `default` among them; one named `tool_use` takes the chats
    that have tools. special: bos_token, eos_token and their kin, as variables of the template.
    Raises ModelError, naming `place`, when a source is not Jinja.
    """

    def __init__(self, sources: Mapping[str, str], special: Mapping[str, str], place: str) -> None:
        environment = ChatEnvironment()
        self._templates = {name: _compile(environment, source, place) for name, source in sources.items()}
        self._special = dict(special)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        at: float | None = None,
    ) -> str:
        """The text of a chat.

        messages, tools: as in OpenAI's API, with the arguments of tool calls as objects.
        add_generation_prompt: end where the assistant's answer begins. variables: others that the
        template reads, such as `documents` or `enable_thinking`. at: the time that the template is told, in Unix
        seconds (None: now). Raises InvalidRequestError (param "messages") when the template refuses the messages or
        fails on them.
        """
        chat = _copy(messages, tools, variables)
        return self._render(chat, add_generation_prompt, at)

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        at: float | None = None,
    ) -> list[TokenId]:
        """The ids of a chat: tokenizer.encode(render(...), add_special=False), bos only if the template has it.

        Special tokens spelt inside messages, tools and variables are encoded as plain text.
        Raises as render() does.
        """
        chat = _copy(messages, tools, variables)
        guard = ChatGuard(find_spellings(tokenizer.special_tokens), chat)
        return guard.encode(tokenizer, self._render(guard.hide(chat), add_generation_prompt, at))

    def _render(self, chat: dict[str, Any], add_generation_prompt: bool, at: float | None) -> str:
        name = "tool_use" if chat["tools"] is not None and "tool_use" in self._templates else "default"
        _soften_arguments(chat["messages"])
        values = {"documents": None, **self._special, **chat.pop("variables"), **chat,
                  "add_generation_prompt": add_generation_prompt}
        now = time.time() if at is None else at
        try:
            return with_room(lambda: self._run(name, values, now))
        except ModelError:
            raise
        except Exception as error:  # a template is a program: it may fail in any way
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {str(error) or type(error).__name__}",
                "messages",
            ) from error

    def _run(self, name: str, values: dict[str, Any], at: float) -> str:
        """Run a template. One written for tools only may loop over absent tools: it gets an empty list then."""
        template = self._templates[name]
        try:
            return template.render(render_variables(values, at))
        except TypeError:
            if values["tools"] is not None:
                raise
            return template.render(render_variables({**values, "tools": []}, at))


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """Load a model folder's chat template; None when it has none. Raises ModelError.

    The first of chat_template.jinja, chat_template.json and tokenizer_config.json that has one.
    """
    files = read_tokenizer_files(folder)
    file = folder / "chat_template.jinja"
    if file.exists():
        place = f"{gguf}: tokenizer.chat_template" if (gguf := origin(folder)) != folder else str(file)
        return ChatTemplate({"default": _read_text(file)}, files.named, place)
    listed = read_json(folder / "chat_template.json")
    for name, config in (("chat_template.json", listed), ("tokenizer_config.json", files.config)):
        if config.get("chat_template") is not None:
            place = str(folder / name)
            return ChatTemplate(_sources(config["chat_template"], place), files.named, place)
    return None


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, MAX_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from None


def _sources(value: object, place: str) -> dict[str, str]:
    """One template, or a list of named ones."""
    listed: list[Any] = value if isinstance(value, list) else [{"name": "default", "template": value}]
    try:
        sources: dict[str, str] = {entry["name"]: entry["template"] for entry in listed}
    except (TypeError, KeyError):
        sources = {}
    if "default" not in sources or not all(isinstance(source, str) for source in sources.values()):
        raise ModelError(
            f"chat_template in {place} must be a text, or a list of objects with name and template, one of "
            "them named default"
        )
    return sources


def _compile(environment: ChatEnvironment, source: str, place: str) -> Template:
    try:
        return with_room(lambda: environment.from_string(source))
    except ModelError:
        raise
    except Exception as error:  # Jinja's errors, and Python's where nesting is too deep
        line = getattr(error, "lineno", None)
        where = f"{place}, line {line} of the template" if line else place
        raise ModelError(
            f"the chat template can not be compiled ({where}): {error}; mend or fetch it again"
        ) from None


def _copy(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The chat as plain JSON, ours to change."""
    for name in _OWN_VARIABLES:
        if variables and name in variables:
            raise InvalidRequestError(f"{name} is no free template variable; pass it by its own name", name)
    if not all(isinstance(message, Mapping) for message in messages):
        raise InvalidRequestError("each message must be an object with role and content", "messages")
    try:
        chat = {"messages": list(messages), "tools": tools, "variables": dict(variables or {})}
        copied: dict[str, Any] = copy_json(chat, lambda text, _key: text)
    except RecursionError:
        raise InvalidRequestError("the messages are nested too deeply", "messages") from None
    return copied


class _Arguments(dict[str, Any]):
    """The arguments of a tool call: an object, and JSON text where a template adds it to text.

    Clients and templates disagree on which of the two `arguments` is; a plain dict fails in the latter.
    """

    def __add__(self, text: str) -> str:
        return json.dumps(self, ensure_ascii=False) + text

    def __radd__(self, text: str) -> str:
        return text + json.dumps(self, ensure_ascii=False)


def _soften_arguments(messages: Sequence[dict[str, Any]]) -> None:
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
                function["arguments"] = _Arguments(function["arguments"])
