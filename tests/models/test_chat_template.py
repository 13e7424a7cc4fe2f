"""Chat templates: every published one against transformers; where they are found; how they fail."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from nearfield.core.errors import InvalidRequestError, ModelError
from nearfield.models.chat_template import ChatTemplate, load_chat_template

SPECIAL: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
USER: dict[str, Any] = {"role": "user", "content": 'Hello <b>&"\u00e9" {{ x }}'}
SYSTEM: dict[str, Any] = {"role": "system", "content": " Be brief.\n"}
ASSISTANT = {"role": "assistant", "content": "Hi!"}
AGAIN = {"role": "user", "content": "And?"}
CHATS = {"user": [USER], "system": [SYSTEM, USER], "turns": [USER, ASSISTANT, AGAIN]}

WEATHER = {
    "name": "weather",
    "description": "The weather <now>",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Where", "enum": ["Paris", "\u0141\u00f3d\u017a"]}},
        "required": ["city"],
    },
}
TOOLS = [{"type": "function", "function": WEATHER}]
CALL = {"name": "weather", "arguments": {"city": "Paris"}}
CALLS: dict[str, Any] = {
    "role": "assistant", "content": "",
    "tool_calls": [{"id": "call00001", "type": "function", "function": CALL}],
}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": '{"t": 21}'}
TOOL_CHATS = {
    "tools": [SYSTEM, USER],
    "result": [USER, CALLS, RESULT],
    "after": [USER, CALLS, RESULT, ASSISTANT, AGAIN],
}

# What these can not render, neither can transformers: one says so, one writes into messages, one asks
# for variables of its own.
REFUSED = {
    ("google-gemma-2-2b-it", "system"),
    ("MiroThinker", "turns"),
    ("fireworks-ai-llama-3-firefunction-v2", "user"),
    ("fireworks-ai-llama-3-firefunction-v2", "system"),
    ("fireworks-ai-llama-3-firefunction-v2", "turns"),
}

Chat = Sequence[Mapping[str, Any]]


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> "Noon":
        return cls(2026, 2, 3, 12, 0, 0, tzinfo=tz)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time by the clock of transformers, in Unix seconds."""
    monkeypatch.setattr(chat_template_utils, "datetime", Noon)
    return Noon.now(UTC).timestamp()


def reference(source: str, messages: Chat, tools: Any, prompt: bool) -> str | Exception:
    """What transformers makes of it: a text, or what it raises."""
    render_all: Any = chat_template_utils.render_jinja_template
    copy = json.loads(json.dumps(messages))
    try:
        rendered, _ = render_all([copy], tools, chat_template=source, add_generation_prompt=prompt, **SPECIAL)
    except Exception as error:
        return error
    return str(rendered[0])


def render(source: str, messages: Chat | None = None, **options: Any) -> str:
    template = ChatTemplate({"default": source}, SPECIAL, "here")
    return template.render([USER] if messages is None else messages, **options)


def test_every_published_template_agrees_with_transformers(shared_data: Path, noon: float) -> None:
    files = sorted((shared_data / "chat_templates").glob("*/*.jinja"))
    assert len(files) > 70
    for file in files:
        source = file.read_text()
        template = ChatTemplate({"default": source}, SPECIAL, str(file))
        for name, messages in (CHATS | TOOL_CHATS).items():
            tools = TOOLS if name in TOOL_CHATS else None
            for prompt in (True, False):
                expected = reference(source, messages, tools, prompt)
                try:
                    text = template.render(messages, tools=tools, add_generation_prompt=prompt, at=noon)
                except InvalidRequestError:
                    assert isinstance(expected, Exception), (file, name)
                    assert name in TOOL_CHATS or (file.stem, name) in REFUSED
                else:
                    assert text == expected or isinstance(expected, TypeError), (file, name)


def test_a_template_may_ask_for_variables(shared_data: Path) -> None:
    file = shared_data / "chat_templates" / "llama.cpp" / "fireworks-ai-llama-3-firefunction-v2.jinja"
    for messages in CHATS.values():
        text = render(file.read_text(), messages, variables={"functions": "[]", "datetime": "noon"})
        assert "Hello <b>" in text


def test_arguments_are_an_object_and_json_text() -> None:
    """Some templates add the arguments to text, others look into them."""
    look = "{% set a = messages[0].tool_calls[0].function.arguments %}"
    assert render(look + "{{ 'x' + a + 'y' }}", [CALLS]) == 'x{"city": "Paris"}y'
    assert render(look + "{{ a.city }} {{ a is mapping }} {{ a | tojson }}", [CALLS]) == 'Paris True {"city": "Paris"}'


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('no system role here') }}", "no system role here"),
        ("{{ nothing.more }}", "'nothing' is undefined"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ dict.__subclasses__() }}", "unsafe"),
        ("{{ ('%s' | attr('format')).__globals__.x }}", "unsafe"),
    ],
)
def test_a_failing_template_blames_the_messages(source: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        render(source)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("messages", [["hi"], "hi", [{"content": object()}], [{"content": {1, 2}}]])
def test_messages_must_be_json_objects(messages: Any) -> None:
    with pytest.raises(InvalidRequestError, match="message"):
        render("{{ messages }}", messages)


def test_nesting_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    deep["content"] = deep
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        render("{{ messages }}", [deep])


def test_own_variables_can_not_be_replaced() -> None:
    with pytest.raises(InvalidRequestError, match="tools is no free template variable"):
        render("{{ tools }}", variables={"tools": []})


def test_where_templates_are_found(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path) is None
    config: dict[str, Any] = {"bos_token": {"content": "<b>"}, "chat_template": "{{ bos_token }}config"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert loaded(tmp_path).render([USER]) == "<b>config"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert loaded(tmp_path).render([USER]) == "json"
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}jinja")
    assert loaded(tmp_path).render([USER]) == "<b>jinja"


def test_named_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert loaded(tmp_path).render([USER]) == "plain"
    assert loaded(tmp_path).render([USER], tools=TOOLS) == "tools"


def loaded(folder: Path) -> ChatTemplate:
    template = load_chat_template(folder)
    assert template is not None
    return template


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{% if %}", "line 1 of the template"),
        ("a\n{{ x | nosuch }}", "line 2 of the template.*nosuch"),
        (17, "must be a text"),
        ([{"name": "rag", "template": "x"}], "named default"),
        ([{"name": "default"}], "named default"),
    ],
)
def test_broken_templates_do_not_load(tmp_path: Path, value: object, words: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ModelError, match=rf"tokenizer_config\.json[\s\S]*{words}|{words}[\s\S]*tokenizer_config\.json"):
        load_chat_template(tmp_path)


def test_broken_files_do_not_load(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"chat_template\.jinja is not UTF-8"):
        load_chat_template(tmp_path)
