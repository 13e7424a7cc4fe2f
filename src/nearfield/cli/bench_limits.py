"""`nearfield bench limits`: a table for people, and with --json one JSON document as the last line."""

import argparse
import json
from typing import Any

from nearfield.cli.bench_common import add_machine, report

HELP = "memory bandwidth and multiply-add rates of this machine, by threads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    from nearfield.bench.machine import limits

    result = limits(args.threads, args.isa, args.rounds, args.memory, report)
    print(table(result))
    if args.json:
        print(json.dumps(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{result['isa']}", f"{'threads':<10}{'read GB/s':>12}{'int8':>10}{'bf16':>10}{'fp32':>10}  GMAC/s"]
    for row in result["rows"]:
        rates = (row[f"{kind}_gmac_s"] for kind in ("int8", "bf16", "fp32"))
        lines.append(f"{row['threads']:<10}{row['read_gb_s']:>12.1f}"
                     + "".join(f"{'-' if rate is None else f'{rate:.0f}':>10}" for rate in rates))
    return "\n".join(lines)
