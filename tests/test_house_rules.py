"""The house rules that a parser can check. Each rule is shown one bad example, so that it can fail.

Types, style and the floors have their own tools (see scripts/check); what they can not say is here.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "nearfield"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CONFIG_FIELDS = 20

CONTAINERS = {"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict"}
MUTATORS = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "clear", "remove"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FAMILIES = re.compile(
    r"(?<![a-z])(llama|qwen|mistral|mixtral|gemma|smollm|deepseek|falcon|phi-?[1-4](?![0-9])|gpt-?(2|neo|j|oss))",
    re.IGNORECASE)
# Spelt in pieces, or this file would break its own rule.
MACHINE = re.compile(
    r"(?<![\w.])/(?:" + "|".join(["wor" + "k", "roo" + "t", "hom" + r"e/\w+", "op" + "t/py"]) + r")(?:/|\b)"
    r"|py" + r"pi\.org|python" + r"hosted\.org")


@dataclass(frozen=True)
class Source:
    """A Python file: where it is, relative to the root, its text and its syntax tree."""

    place: Path
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, place: Path, text: str) -> "Source":
        return cls(place, text, ast.parse(text))

    def inside(self, folder: str) -> bool:
        return self.place.is_relative_to(Path("src/nearfield") / folder)


Finding = tuple[int, str]
Rule = Callable[[Source], Iterator[Finding]]


def short_file(source: Source) -> Iterator[Finding]:
    count = len(source.text.splitlines())
    if count > MAX_FILE_LINES:
        yield count, f"{count} lines; a file has at most {MAX_FILE_LINES}"


def short_functions(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name}: {count} lines; a function has at most {MAX_FUNCTION_LINES}"


def opening_docstring(source: Source) -> Iterator[Finding]:
    if source.text.strip() and not ast.get_docstring(source.tree):
        yield 1, "no docstring; a file opens with what it is and why this way"


def no_mixins(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and "mixin" in node.name.lower():
            yield node.lineno, f"{node.name} is a mixin; compose instead"


def _is_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        return name in CONTAINERS
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def _module_containers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_container(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((t.id, node.lineno) for t in targets if isinstance(t, ast.Name))


def _changed_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names changed in place: NAME[...] = x, del NAME[...], NAME.append(x), NAME += x."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                yield name, node.lineno
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in MUTATORS:
                yield name, node.lineno
            case ast.AugAssign(target=ast.Name(id=name)):
                yield name, node.lineno


def no_mutable_globals(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"global {', '.join(node.names)}; pass it, or hold it in an object"
    containers = dict(_module_containers(source.tree))
    for name, line in containers.items():
        if name != name.upper() and not (name.startswith("__") and name.endswith("__")):
            yield line, f"{name} is a mutable global; make it a constant in capitals, or a tuple"
    for name, line in _changed_names(source.tree):
        if name in containers:
            yield line, f"{name}, a global, is changed here"


def no_code_from_data(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        match node:
            case ast.Import(names=names):
                unsafe = [n.name for n in names if n.name.split(".")[0] in UNSAFE_MODULES]
            case ast.ImportFrom(module=str(module)):
                unsafe = [module] if module.split(".")[0] in UNSAFE_MODULES else []
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                unsafe = [name]
            case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                unsafe = ["torch.load"]
            case _:
                continue
        yield from ((node.lineno, f"{name} can run code that data brings") for name in unsafe)


def no_model_names(source: Source) -> Iterator[Finding]:
    if source.inside("models") or not source.inside(""):
        return
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := FAMILIES.search(line):
            yield number, f"{found[0]!r}: a model's name belongs in models/"


def _is_config(node: ast.ClassDef) -> bool:
    return node.name.endswith(("Config", "Params", "Spec"))


def small_frozen_configs(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        marks = [ast.unparse(d) for d in node.decorator_list if ast.unparse(d).startswith("dataclass")]
        if not marks or not (_is_config(node) or source.place.name == "config.py"):
            continue
        if "frozen=True" not in marks[0]:
            yield node.lineno, f"{node.name} is not frozen"
        fields = sum(isinstance(item, ast.AnnAssign) for item in node.body)
        if fields > MAX_CONFIG_FIELDS:
            yield node.lineno, f"{node.name} has {fields} fields; a config has at most {MAX_CONFIG_FIELDS}"


def core_is_plain(source: Source) -> Iterator[Finding]:
    if not source.inside("core"):
        return
    for node in ast.walk(source.tree):
        match node:
            case ast.Import(names=names):
                modules = [n.name for n in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                continue
        for module in modules:
            known = module.split(".")[0] in sys.stdlib_module_names or module.startswith("nearfield.core")
            if not known:
                yield node.lineno, f"core imports {module}; it may import the standard library only"


# rule, where the example stands, the example
RULES: list[tuple[Rule, str, str]] = [
    (short_file, "engine/x.py", "x = 1\n" * 401),
    (short_functions, "engine/x.py", "def f() -> None:\n" + "    pass\n" * 60),
    (opening_docstring, "engine/x.py", "x = 1\n"),
    (no_mixins, "engine/x.py", "class CacheMixin: ...\n"),
    (no_mutable_globals, "engine/x.py", "registry = {}\n"),
    (no_mutable_globals, "engine/x.py",
     "TABLE: dict[str, int] = dict()\ndef f() -> None:\n    TABLE['a'] = 1"),
    (no_mutable_globals, "engine/x.py", "X = 1\ndef f() -> None:\n    global X\n    X = 2\n"),
    (no_code_from_data, "models/x.py", "from pickle import loads\n"),
    (no_code_from_data, "models/x.py", "import torch\ntorch.load('x')\n"),
    (no_code_from_data, "models/x.py", "eval('1')\n"),
    (no_model_names, "engine/x.py", "if model_type == 'qwen2': ...\n"),
    (small_frozen_configs, "engine/x.py", "@dataclass\nclass PaceConfig:\n    a: int\n"),
    (small_frozen_configs, "core/config.py",
     "@dataclass(frozen=True)\nclass A:\n" + "".join(f"    a{i}: int\n" for i in range(21))),
    (core_is_plain, "core/x.py", "import torch\n"),
    (core_is_plain, "core/x.py", "from nearfield.kernels import ops\n"),
]


@cache
def _sources() -> tuple[Source, ...]:
    folders = (PACKAGE, ROOT / "tests", ROOT / "scripts")
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return tuple(Source.parse(path.relative_to(ROOT), path.read_text("utf-8")) for path in paths)


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Rule) -> None:
    findings = [f"{s.place}:{line}: {text}" for s in _sources() for line, text in rule(s)]
    assert not findings, "\n".join(["", *findings])


@pytest.mark.parametrize(("rule", "place", "example"), RULES)
def test_rule_can_fail(rule: Rule, place: str, example: str) -> None:
    assert list(rule(Source.parse(Path("src/nearfield") / place, example)))


def test_other_names_are_not_families() -> None:
    text = '"""Philox, vllm:num_requests_running, ollama-like."""\n'
    assert not list(no_model_names(Source.parse(Path("src/nearfield/engine/x.py"), text)))


def test_no_machine_in_tracked_files() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are tracked is not known")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout
    findings = []
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" in data or path.suffix in {".safetensors", ".model"}:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if found := MACHINE.search(line):
                findings.append(f"{name}:{number}: {found[0]!r}")
    assert not findings, "\n".join(["", *findings])


def test_machine_pattern_can_match() -> None:
    for text in ("/wor" + "k/main", "see /roo" + "t/.cache", "/hom" + "e/ann/x", "https://py" + "pi.org/"):
        assert MACHINE.search(text), text
    for text in ("/v1/models", "$HOME/models", "framework/main", "a/root-relative path"):
        assert not MACHINE.search(text), text
