"""`nearfield bench kernels`: a table for people, and with --json one JSON document as the last line."""

import argparse
import json
from typing import Any

from nearfield.cli.bench_common import add_machine, report
from nearfield.cli.options import counts

HELP = "each C++ kernel as a share of the limit measured beside it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_machine(parser)
    parser.add_argument("--m", metavar="N,N,...", type=counts, default=(1, 8, 16, 512),
                        help="numbers of tokens (default: 1,8,16,512)")
    parser.add_argument("--group", type=int, choices=(32, 64, 128), default=64,
                        help="columns of a scale of w4 (default: 64)")


def run(args: argparse.Namespace) -> int:
    from nearfield.bench.kernels import KernelsParams, run_kernels

    params = KernelsParams(args.m, args.group, args.rounds, args.memory)
    result = run_kernels(args.threads, args.isa, params, report)
    print(table(result))
    if args.json:
        print(json.dumps(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    limits = result["limits"]
    rates = ", ".join(f"{kind} {limits[key]}" for kind in ("int8", "bf16", "fp32") if limits[key := f"{kind}_gmac_s"])
    lines = [f"{result['isa']}, {result['threads']} threads; read {limits['read_gb_s']} GB/s, {rates} GMAC/s (medians)",
             f"{'op':<10}{'format':<8}{'m':>5}{'n':>8}{'k':>7}{'us':>11}{'of the limit':>14}"]
    for row in result["rows"]:
        lines.append(f"{row['op']:<10}{row['format']:<8}{row['m']:>5}{row['n']:>8}{row['k']:>7}{row['us']:>11.1f}"
                     f"{row['share']:>14.0%}")
    return "\n".join(lines)
