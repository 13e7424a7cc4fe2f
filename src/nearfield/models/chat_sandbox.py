"""Where chat templates run: the Jinja of model authors, inside limits.

The dialect is the one that Hugging Face folders are written for: trimmed blocks, loop controls,
`raise_exception`, `strftime_now`, a `tojson` that leaves HTML alone, and a `generation` block.
A template comes with the weights, so it is foreign code: Jinja's sandbox keeps it from Python's
insides, and every loop, call and growing text passes through `chat_limits` (Jinja has hooks for
calls and operators; the rest is rewritten in the parsed template). Recursion needs no limit of its own:
`chat_stack` has room for it. Nested lists that share their parts are not measured: printing one can
still take long.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from nearfield.models.chat_limits import (
    GROWTH,
    Budget,
    check_number,
    check_operator,
    check_size,
    check_widths,
    sized_join,
)

_MAX_JSON_INDENT = 64

# Not identifiers, so that no template can read or shadow them.
_BUDGET = "what is left"
_NOW = "the time"


def render_variables(variables: Mapping[str, Any], at: float) -> dict[str, Any]:
    """The variables of one rendering, with a fresh budget among them, and the time that it is told: `at`, in Unix
    seconds. In UTC, so that who renders the same chat elsewhere gets the same text."""
    return {**variables, _BUDGET: Budget(), _NOW: datetime.fromtimestamp(at, UTC)}


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles chat templates. Thread-safe: what a rendering uses up lives in its own variables."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols])
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.filters |= {name: _measured(name, FILTERS[name]) for name in GROWTH}
        self.filters |= {"tojson": _tojson, "counted items": _counted, "sized join": sized_join,
                         "small number": _small_number, "one step": _charged}

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join the pieces of a rendering, a macro or a block, as Jinja does at each of their ends."""
        return sized_join(parts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Rewriter(self).visit(tree)
        return tree

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Jinja's hook for what went wrong. Its own mends tracebacks, which takes minutes for 100,000 frames."""
        if isinstance(sys.exception(), TemplateSyntaxError):
            super().handle_exception(source)
        raise

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Jinja's hook for the intercepted operators."""
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    # Jinja names its parameters so, lest a template's keyword arguments clash with them.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Jinja's hook for every call in a template."""
        _budget(__context).charge()
        for argument in (*args, *kwargs.values()):
            check_number(argument)
        if isinstance(__obj, LoopContext):
            args = tuple(_counted(__context, argument) for argument in args)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __obj.__name__ in GROWTH:
            check_size(GROWTH[__obj.__name__](owner, *args, **kwargs))
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's hook for str.format."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            check_widths(value.__self__)
        return wrapped


class _GenerationBlock(Extension):
    """{% generation %} marks the assistant's words for training; when serving it is its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Rewriter(NodeTransformer):
    """Puts our filters around loops' items, the parts of `~`, filters' arguments, tuples and dicts."""

    def __init__(self, environment: ChatEnvironment) -> None:
        self._environment = environment

    def _filter(self, value: nodes.Node, name: str) -> nodes.Filter:
        place = {"lineno": value.lineno, "environment": self._environment}
        return nodes.Filter(value, name, [], [], None, None, **place)

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = self._filter(node.iter, "counted items")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno, environment=self._environment)
        return self._filter(parts, "sized join")

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:
        self.generic_visit(node)
        node.args = [self._filter(argument, "small number") for argument in node.args]
        for pair in node.kwargs:
            pair.value = self._filter(pair.value, "small number")
        return node


    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(node, "one step") if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(node, "one step")


def _budget(context: Context) -> Budget:
    budget: Budget = context.parent[_BUDGET]
    return budget


@pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    return _budget(context).count(items)


@pass_context
def _charged(context: Context, value: Any) -> Any:
    """`value`, a tuple or what becomes one: chat_stack has room for as many, nested, as there are steps."""
    _budget(context).charge()
    return value


@pass_context
def _small_number(_context: Context, value: Any) -> Any:
    """`value`, checked. Asking for the context keeps Jinja from working it out when it compiles."""
    check_number(value)
    return value


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """One of Jinja's filters, measured first."""
    passes_context = hasattr(function, "jinja_pass_arg")

    def measured(*args: Any, **kwargs: Any) -> Any:
        check_size(GROWTH[name](*args[passes_context:], **kwargs))
        return function(*args, **kwargs)

    if passes_context:
        measured.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]  # jinja2 marks functions so
    return measured


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


@pass_context
def _strftime_now(context: Context, form: str) -> str:
    now: datetime = context.parent[_NOW]
    return now.strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > _MAX_JSON_INDENT:
        raise SecurityError(f"tojson indents by {_MAX_JSON_INDENT} spaces at most, not {indent}")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
