"""`nearfield generate`: one prompt in, its continuation on stdout as it comes."""

import argparse
import sys

from nearfield.cli.options import add_engine, add_model, add_sampling

HELP = "continue a text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="the text to continue; - reads stdin")
    add_sampling(parser, max_tokens=256)
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    from nearfield.cli.session import Session

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    session = Session.open(args)
    for output in session.stream(session.llm.encode(prompt)):
        print(output.text, end="", flush=True)
    print()
    return 0
