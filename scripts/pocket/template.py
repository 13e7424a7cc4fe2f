"""The chat format: one line of Jinja for servers, and the special tokens it is made of.

<|begin|><|system|>...<|end|><|user|>...<|end|><|assistant|>...<|end|>: a token a role and one at the
end of each turn, since every token costs a small model dearly. Tools are listed in the system turn as
`name(parameters): description`, which is shorter than their JSON schema.
"""

from collections.abc import Sequence
from json import dumps

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pocket.exchange import Message, Tool

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
CONTROL = (PAD, BEGIN, END, SYSTEM, USER, ASSISTANT, TOOL)
CALL, CALL_END = "<tool_call>", "</tool_call>"

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- '<|begin|>' -}}
{%- set has_system = messages and messages[0].role in ['system', 'developer'] -%}
{%- if has_system or tools -%}
{{- '<|system|>' -}}
{%- if has_system -%}{{ text(messages[0].content) }}{%- endif -%}
{%- if tools -%}
{{- '\\nTools:' if has_system and messages[0].content else 'Tools:' -}}
{%- for tool in tools -%}
{%- set f = tool.function or tool -%}
{{- '\\n' ~ f.name ~ '(' ~ ((f.parameters or {}).properties or {}) | join(', ') ~ ')' -}}
{{- ': ' ~ f.description if f.description else '' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
{%- if message.role not in ['user', 'assistant', 'tool'] -%}
{{- raise_exception('the roles are system (first only), user, assistant and tool, not ' ~ message.role) -}}
{%- endif -%}
{{- '<|' ~ message.role ~ '|>' -}}
{{- text(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{%- set f = call.function or call -%}
{%- set arguments = f.arguments if f.arguments is string else f.arguments | tojson -%}
{{- '<tool_call>{"name": ' ~ f.name | tojson ~ ', "arguments": ' ~ arguments ~ '}</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}
"""


def _refuse(message: str) -> None:
    raise ValueError(message)


def compile_template() -> Template:
    """The template as model servers compile it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(CHAT_TEMPLATE)


class ChatFormat:
    """Renders chats with the template, compiled once."""

    def __init__(self) -> None:
        self._template = compile_template()

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, prompt: bool = False) -> str:
        """The chat as text; with `prompt` it ends where the assistant's answer begins."""
        return self._template.render(messages=messages, tools=list(tools) or None, add_generation_prompt=prompt)
