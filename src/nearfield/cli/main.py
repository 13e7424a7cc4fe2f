"""`nearfield COMMAND ...`: finds the command's module, reads its options, runs it.

A command is a module with HELP, add_arguments and run; a group of commands is a module with HELP and
COMMANDS. A module is imported when its command is named, and imports what is heavy when it runs, so
that `nearfield --help` answers at once.
"""

import argparse
import errno
import gc
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from typing import NoReturn, Protocol, cast

from nearfield.core.errors import ConfigError, NearfieldError, nearest

COMMANDS = {
    "serve": "nearfield.cli.serve",
    "chat": "nearfield.cli.chat",
    "generate": "nearfield.cli.generate",
    "quantize": "nearfield.cli.quantize",
    "prune": "nearfield.cli.prune",
    "distill": "nearfield.cli.distill",
    "compress": "nearfield.cli.compress",
    "analyze": "nearfield.cli.analyze",
    "evaluate": "nearfield.cli.evaluate",
    "unpack": "nearfield.cli.unpack",
    "convert": "nearfield.cli.convert",
    "node": "nearfield.cli.node",
    "bench": "nearfield.cli.bench",
    "info": "nearfield.cli.info",
    "verify": "nearfield.cli.verify",
    "audit": "nearfield.cli.audit",
}
DESCRIPTION = "Serve open language models fast on the machine at hand."
FAILED, INTERRUPTED = 2, 130
"""The exit statuses of an error that is told in a line, and, as the shell has it, of Ctrl-C: 128 + SIGINT."""
STATUSES = ("Exit status: 0 done; 1 done, and something is wrong that is told (an answer that is not verified, a "
            "request cut off, a channel not collected from); 2 not done, and stderr says why; 130 stopped with Ctrl-C.")


class Command(Protocol):
    """What a command's module holds. `run` returns the exit status."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """argparse, with Nearfield's way to report: one line that names the thing, and exit status 2."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self._negative_number_matcher = re.compile(r"-\.?\d")     # -5k is no option either: its type says what is wrong

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")

    def options(self) -> list[str]:
        """Every spelling of every option."""
        return list(self._option_string_actions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (sys.argv without the program's name) and return the exit status."""
    # Importing and loading make a million objects that stay; looking for garbage among them every 700 costs a
    # tenth of the start.
    gc.set_threshold(100_000)
    _mend_streams()
    try:
        status = _dispatch("nearfield", DESCRIPTION, COMMANDS, sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except NearfieldError as error:
        return _failed(str(error))
    except KeyboardInterrupt as stop:
        print(f"nearfield: {str(stop) or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:     # the reader is gone
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if error.filename is None:
            _drop_output()
        return _failed(f"{error.filename or 'the output'}: cannot be written ({error.strerror}); make room, or give "
                       "another place")


def _failed(message: str) -> int:
    print(f"nearfield: error: {message}", file=sys.stderr)
    return FAILED


def _mend_streams() -> None:
    """A stream that was closed by whoever started us is an empty one, and what a terminal has no letter for is a
    question mark, no end of the program."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))      # open to the end
        elif name == "stdout" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """Python flushes stdout once more at exit, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(prog: str, description: str, commands: Mapping[str, str], argv: Sequence[str]) -> int:
    """Hand the words after a command's name to its module."""
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(_overview(prog, description, commands))
        return 0 if argv else 2
    if name == "--version" and prog == "nearfield":
        print(f"nearfield {version('nearfield')}")
        return 0
    if name not in commands:
        kind = "option" if name.startswith("-") else "command"
        known = [*commands, "--help", "--version"]
        raise ConfigError(f"unknown {kind} {name!r}{nearest(name, known)}; see {prog} --help")
    module = import_module(commands[name])
    prog = f"{prog} {name}"
    if group := getattr(module, "COMMANDS", None):
        return _dispatch(prog, module.HELP, group, argv[1:])
    return _run(prog, cast(Command, module), argv[1:])


def _run(prog: str, command: Command, argv: Sequence[str]) -> int:
    parser = Parser(prog, command.HELP)
    command.add_arguments(parser)
    _refuse_unknown(parser, argv)
    return command.run(parser.parse_args(argv))


def _refuse_unknown(parser: Parser, argv: Sequence[str]) -> None:
    """Name an unknown option before argparse complains of what is missing because of it."""
    known = parser.options()
    for word in argv:
        name = word.partition("=")[0]
        if word == "--":
            return
        if name.startswith("--") and name not in known:
            parser.error(f"unknown option {name!r}{nearest(name, known)}")


def _overview(prog: str, description: str, commands: Mapping[str, str]) -> str:
    """The help of a group: its commands, a line for each."""
    width, columns = max(map(len, commands)), max(40, shutil.get_terminal_size().columns)
    rows = [textwrap.fill(import_module(module).HELP, columns, initial_indent=f"  {name:<{width}}  ",
                          subsequent_indent=" " * (width + 4)) for name, module in commands.items()]
    head, *more = (textwrap.fill(words, columns) for words in
                   (description, f"{prog} COMMAND --help tells a command's options.", STATUSES))
    return "\n".join([f"usage: {prog} COMMAND ...", "", head, "", *rows, "", *more])
