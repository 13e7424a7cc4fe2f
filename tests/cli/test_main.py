"""The command line as a user meets it: help, mistakes, errors, interrupts."""

import argparse
import os
import shlex
import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest

from nearfield.cli import main as cli
from nearfield.core.errors import ModelError

NEARFIELD = (sys.executable, "-c", "import sys; from nearfield.cli.main import main; sys.exit(main())")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command called `stub`, whose `outcome` is returned, or raised when it is an exception."""
    module = ModuleType("nearfield.cli.stub")
    module.__dict__.update(HELP="does nothing", outcome=0, seen=None)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", nargs="?")
        parser.add_argument("--prompt", required=True)
        parser.add_argument("--size", type=int)

    def run(args: argparse.Namespace) -> int:
        module.__dict__["seen"] = args
        outcome = module.__dict__["outcome"]
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, int)
        return outcome

    module.__dict__.update(add_arguments=add_arguments, run=run)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "COMMANDS", {**cli.COMMANDS, "stub": module.__name__})
    return module


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that stderr holds."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("nearfield: error: ")
    return captured.err


def test_run_hands_over_arguments_and_status(command: ModuleType) -> None:
    command.__dict__["outcome"] = 7
    assert cli.main(["stub", "folder", "--prompt", "hi", "--size", "3"]) == 7
    assert vars(command.__dict__["seen"]) == {"model": "folder", "prompt": "hi", "size": 3}


@pytest.mark.parametrize(("argv", "parts"), [
    (["stbu"], ["unknown command 'stbu'", "did you mean 'stub'"]),
    (["--verison"], ["unknown option '--verison'", "did you mean '--version'"]),
    (["stub", "--promt", "hi"], ["unknown option '--promt'", "did you mean '--prompt'", "stub --help"]),
    (["stub", "--prom=hi"], ["unknown option '--prom'", "did you mean '--prompt'"]),
    (["stub", "folder"], ["--prompt"]),
    (["stub", "--prompt", "hi", "--size", "x"], ["--size", "'x'"]),
    (["stub", "a", "b", "--prompt", "hi"], ["unrecognized arguments: b"]),
    (["bench", "oflin"], ["unknown command 'oflin'", "did you mean 'offline'", "nearfield bench --help"]),
    (["bench", "offline", "--bach", "1"], ["unknown option '--bach'", "did you mean '--batch'"]),
    (["bench", "offline", "--batch", "1,0"], ["--batch", "'0'"]),
])
def test_mistakes_are_named(command: ModuleType, capsys: pytest.CaptureFixture[str],
                            argv: list[str], parts: list[str]) -> None:
    assert cli.main(argv) == 2
    error = _error(capsys)
    assert all(part in error for part in parts), error


def test_words_after_two_dashes_are_no_options(command: ModuleType) -> None:
    assert cli.main(["stub", "--prompt", "hi", "--", "--odd-name"]) == 0
    assert command.__dict__["seen"].model == "--odd-name"


def test_expected_error_is_one_line(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    command.__dict__["outcome"] = ModelError("models/x: has no config.json")
    assert cli.main(["stub", "--prompt", "hi"]) == 2
    assert _error(capsys) == "nearfield: error: models/x: has no config.json\n"


@pytest.mark.parametrize(("words", "line"), [((), "stopped"), (("stopped; go on",), "stopped; go on")])
def test_interrupt_is_130_and_a_line(words: tuple[str, ...], line: str, command: ModuleType,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    command.__dict__["outcome"] = KeyboardInterrupt(*words)
    assert cli.main(["stub", "--prompt", "hi"]) == 130
    assert capsys.readouterr().err == f"nearfield: {line}\n"


def test_bug_is_not_hidden(command: ModuleType) -> None:
    command.__dict__["outcome"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        cli.main(["stub", "--prompt", "hi"])


@pytest.mark.parametrize("argv", [["--help"], ["-h"]])
def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)


def test_no_command_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: nearfield COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*cli.COMMANDS, "bench offline", "bench agents", "node init", "node front"])
def test_each_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    if name in ("bench", "node"):   # groups of commands
        assert cli.main([name, "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as ended:
            cli.main([*name.split(), "--help"])
        assert ended.value.code == 0
    assert f"usage: nearfield {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nearfield {version('nearfield')}\n"


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; from nearfield.cli.main import main; main(['--help']); "
            "print(sorted({'torch', 'numpy', 'starlette', 'transformers'} & sys.modules.keys()))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["--help"], ["info"]])
def test_a_full_disk_under_the_output_is_told_in_a_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*NEARFIELD, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("nearfield: error: the output: cannot be written (No space left on device); make room, or "
                           "give another place\n")


def test_streams_that_are_closed_are_empty_ones() -> None:
    words = shlex.join(NEARFIELD)
    done = subprocess.run(["sh", "-c", f"{words} chat <&- && {words} --help >&-"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and done.stderr == ""


def test_letters_that_a_terminal_does_not_have_are_question_marks(capsys: pytest.CaptureFixture[str]) -> None:
    code = f"{NEARFIELD[2].removesuffix('sys.exit(main())')}main(['--help']); print('caf\u00e9')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.stdout.endswith("caf?\n")


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns


def test_reader_that_leaves_is_no_traceback() -> None:
    with subprocess.Popen([*NEARFIELD, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
