"""The dialect that model authors write in, and templates that try to do too much."""

import subprocess
import sys
import time
from typing import Any

import pytest

from nearfield.core.errors import InvalidRequestError, ModelError
from nearfield.models import chat_limits, chat_stack
from nearfield.models.chat_template import ChatTemplate

USER = {"role": "user", "content": "Hello"}


def render(source: str, messages: list[Any] | None = None) -> str:
    return ChatTemplate({"default": source}, {"bos_token": "<s>"}, "here").render(messages or [USER])


def test_dialect() -> None:
    source = """{%- for m in messages -%}
        {{- loop.index ~ '/' ~ loop.length }}{% generation %}[{{ m.content }}]{% endgeneration %}
        {%- if loop.last %}!{% endif %}
        {%- if m.content == 'stop' %}{% break %}{% endif %}
    {%- endfor -%}
    {{ {'a': '<é>'} | tojson }}{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}
    {{- [1, 2] | tojson(separators=(',', ':')) }}{{ documents is none }}{{ bos_token }}{{ nothing }}"""
    text = render(source, [{"content": "x"}, {"content": "stop"}, {"content": "y"}])
    assert text == '1/3[x]2/3[stop]{"a": "<é>"}{\n "a": 2,\n "b": 1\n}[1,2]True<s>'


def test_the_time_is_the_callers_and_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within a macro, and wherever the machine is."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")   # 14 hours ahead
    time.tzset()
    try:
        source = "{% macro day() %}{{ strftime_now('%d %b %H:%M %Z') }}{% endmacro %}{{ day() }}"
        template = ChatTemplate({"default": source}, {}, "here")
        assert template.render([USER], at=1_800_000_000.5) == "15 Jan 08:00 UTC"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 9 ** 999999 }}",
        "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% for i in range(1000000) %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% for a in range(999) %}{% block b scoped %}{% for c in range(999) %}{% endfor %}{% endblock %}{% endfor %}",
        "{% for a in 'ab' recursive %}{% if loop.depth < 40 %}{{ loop('ab') }}{% endif %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ 'x' | center(99999999999) }}",
        "{{ 'x' | center(999999 * 999999) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '{:>99999999999}'.format(1) }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ ('\\n' * 999999) | indent(999999) }}",
        "{{ ('a' * 999999) | replace('a', 'b' * 999999) }}",
        "{{ ('a' * 999999).replace('a', 'b' * 999999) }}",
        "{{ ['b'] * 999999 | join('a' * 999999) }}",
        "{{ ('a' * 999999).join(['b'] * 999999) }}",
        "{{ (['b'] * 999999) | map('upper') | join('a' * 999999) }}",
        "{{ messages | tojson(indent=999999) }}",
    ],
)
def test_bombs_are_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what they ask for and by their steps: the clock is put out of reach, and a hang breaks the bound alone."""
    monkeypatch.setattr(chat_limits, "MAX_STEPS", 200_000)
    monkeypatch.setattr(chat_limits, "MAX_SECONDS", 1e9)
    begin = time.monotonic()
    with pytest.raises(InvalidRequestError, match="the chat template|sandbox|tojson"):
        render(source)
    assert time.monotonic() - begin < 60


def test_slow_templates_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_limits, "MAX_SECONDS", 0.2)
    with pytest.raises(InvalidRequestError, match="more than 0.2 seconds"):
        render("{% set s = 'a' * 9999999 %}{% for i in range(9999) %}{{ s | upper | length }}{% endfor %}")


def test_each_rendering_has_its_own_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_limits, "MAX_STEPS", 50)
    template = ChatTemplate({"default": "{% for i in range(30) %}.{% endfor %}"}, {}, "here")
    assert [template.render([USER]) for _ in range(5)] == ["." * 30] * 5


NEST = "{%% set n = namespace(x=(1,)) %%}{%% for i in range(%d) %%}{%% set n.x = %s %%}{%% endfor %%}{{ %s }}"
DEEP = {
    "macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "loop": "{% for a in 'ab' recursive %}{{ loop('ab') }}{% endfor %}",
    "lists": NEST % (90_000, "[n.x]", "n.x"),
    "json": NEST % (90_000, "{'a': n.x}", "n.x | tojson"),
    "equal": NEST % (90_000, "[n.x]", "n.x == [n.x] or n.x == n.x[0]"),
    "namespaces": NEST % (90_000, "namespace(x=n.x)", "n.x"),
    # A range of more than 100,000 is refused before anything nests.
    "hash": "{% set n = namespace(x=(1,)) %}{% for j in range(5) %}{% for i in range(80_000) %}{% set n.x = (n.x,) %}"
            "{% endfor %}{% endfor %}{{ {n.x: 1} | length }}",
    "sum": "{{ a" + " + a" * 60_000 + " }}",
    "attributes": "{{ a" + ".a" * 60_000 + " }}",
    "brackets": "{{ " + "(" * 100_000 + "a" + ")" * 100_000 + " }}",
    "elif": "{% if a %}" + "{% elif a %}" * 20_000 + "{% endif %}",
}
PROGRAM = """
import sys
from nearfield.core.errors import NearfieldError
from nearfield.models import chat_limits
from nearfield.models.chat_template import ChatTemplate
chat_limits.MAX_SECONDS = 1e9     # depth is to end them, not the clock of a busy machine
sys.setrecursionlimit(int(sys.argv[1]))
try:
    ChatTemplate({"default": sys.stdin.read()}, {}, "here").render([{"role": "user", "content": "Hello"}])
    print("rendered")
except NearfieldError as error:
    print(error)
"""


@pytest.mark.parametrize(("name", "limit"), [*((name, 100_000) for name in DEEP), ("hash", 1000)])
def test_no_recursion_ends_the_process(name: str, limit: int) -> None:
    """100,000 is what some libraries set the process's limit to: too much for the stacks that threads get."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(limit)], input=DEEP[name], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]
    outcomes = ("rendered", "the model's chat template refuses these messages", "the chat template can not be compiled")
    assert done.stdout.startswith(outcomes)
    assert name != "hash" or done.stdout == "rendered\n"


def test_a_stack_that_can_not_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_stack, "_LEVEL", 1 << 40)
    with pytest.raises(ModelError, match="recursion limit of [0-9]+; lower it"):
        render("{{ 1 }}")


def test_tuples_and_objects_are_what_they_are() -> None:
    source = """{% set a, b = 1, 2 %}{{ '%s-%s' % (a, b) }}{{ {'x': (a, b)} }}
        {%- for k, v in {'y': 3}.items() %}{{ k }}{{ v }}{% endfor %}{{ 1 in (1, 2) }}"""
    assert render(source) == "1-2{'x': (1, 2)}y3True"
