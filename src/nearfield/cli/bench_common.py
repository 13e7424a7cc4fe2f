"""What the benches share on the command line: which model or kernels, and where progress goes."""

import argparse
import sys
from typing import TYPE_CHECKING

from nearfield.cli.options import add_dtype, add_kernels, add_model, count, size
from nearfield.kernels.cpu import ISAS

if TYPE_CHECKING:
    from nearfield.bench.workload import Subject


_LEAST = 64 << 20
"""Bytes: what fits the caches says nothing of memory."""


def _enough(text: str) -> int:
    """A size, and not one that a cache would hold."""
    value = size(text)
    if value < _LEAST:
        raise argparse.ArgumentTypeError(f"{text} would be read from the caches; give at least {_LEAST >> 20}MiB")
    return value


def add_subject(parser: argparse.ArgumentParser) -> None:
    """The options that `subject` reads, and --json."""
    add_model(parser)
    add_dtype(parser)
    add_kernels(parser)
    parser.add_argument("--random-weights", action="store_true",
                        help="invent the weights: the folder needs only a config.json")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def subject(args: argparse.Namespace) -> "Subject":
    """The model to measure."""
    from nearfield.bench.workload import Subject

    options = {name: getattr(args, name) for name in ("dtype", "weights", "group", "isa", "threads")}
    return Subject(args.model, options, args.random_weights)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """The options of the benches that measure the kernels and the machine, and --json."""
    parser.add_argument("--threads", metavar="N", type=count, default=None,
                        help="threads (default: the CPUs this process may use)")
    parser.add_argument("--isa", choices=ISAS, default=None,
                        help="instruction set (default: the best here)")
    parser.add_argument("--rounds", metavar="N", type=count, default=5, help="medians of so many (default: 5)")
    parser.add_argument("--memory", metavar="SIZE", type=_enough, default=1 << 30,
                        help="weights, and memory to read: several times the caches (default: 1GiB)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def report(line: str) -> None:
    """Say on stderr what is being done."""
    print(f"bench: {line}", file=sys.stderr, flush=True)
