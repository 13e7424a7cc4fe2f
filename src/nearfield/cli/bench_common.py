"""What the benches share on the command line: which model, in what dtype, and where progress goes."""

import argparse
import sys
from typing import TYPE_CHECKING

from nearfield.cli.options import add_dtype, add_model

if TYPE_CHECKING:
    from nearfield.bench.workload import Subject


def add_subject(parser: argparse.ArgumentParser) -> None:
    """The options that `subject` reads, and --json."""
    add_model(parser)
    add_dtype(parser)
    parser.add_argument("--random-weights", action="store_true",
                        help="invent the weights: the folder needs only a config.json")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def subject(args: argparse.Namespace) -> "Subject":
    """The model to measure."""
    from nearfield.bench.workload import Subject

    return Subject(args.model, args.dtype, args.random_weights)


def report(line: str) -> None:
    """Say on stderr what is being done."""
    print(f"bench: {line}", file=sys.stderr, flush=True)
