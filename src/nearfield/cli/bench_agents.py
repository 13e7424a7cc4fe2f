"""`nearfield bench agents`: a table for people, and with --json one JSON document as the last line."""

import argparse
import json
from typing import Any

from nearfield.cli.bench_common import add_subject, report, subject
from nearfield.cli.options import count

HELP = "requests that share a prefix, all at once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject(parser)
    for name, default, meaning in (
        ("requests", 16, "requests, all at once"),
        ("shared", 1024, "prompt tokens that all share"),
        ("unique", 64, "prompt tokens of each alone"),
        ("output", 64, "tokens that each makes"),
    ):
        parser.add_argument(f"--{name}", metavar="N", type=count, default=default,
                            help=f"{meaning} (default: {default})")


def run(args: argparse.Namespace) -> int:
    from nearfield.bench.agents import AgentsParams, run_agents

    params = AgentsParams(args.requests, args.shared, args.unique, args.output)
    result = run_agents(subject(args), params, report)
    print(table(result))
    if args.json:
        print(json.dumps(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    ttft = result["ttft_s"]
    return "\n".join([
        f"{result['model']}  {result['weights']}, {result['threads']} threads, {result['requests']} requests "
        f"of {result['shared']} shared and {result['unique']} own tokens, {result['output']} tokens each",
        f"{'wall time':<24}{result['wall_s']:.2f} s",
        f"{'tokens/s':<24}{result['tokens_per_s']:.1f}",
        f"{'first token':<24}{ttft['p50']:.2f} s median, {ttft['max']:.2f} s at most",
        f"{'prompt tokens':<24}{result['computed_prompt_tokens']} computed, {result['cached_tokens']} cached",
        f"{'largest batch':<24}{result['max_batch']}",
    ])
