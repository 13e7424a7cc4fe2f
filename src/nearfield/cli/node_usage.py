"""`nearfield node usage`: what the node has answered, by model."""

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from nearfield.cli.node_common import add_config, need_extra
from nearfield.cli.options import count

if TYPE_CHECKING:
    from nearfield.node.ledger import Total

HELP = "requests and tokens by model, from the ledger"
DAY = 86400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--days", metavar="N", type=count, help="of the last N days only (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, LedgerError."""
    need_extra()
    from nearfield.node.build import read_ledger
    from nearfield.node.config import read_config
    from nearfield.node.identity import default_home

    ledger = read_ledger(default_home(), read_config(args.node_config))
    try:
        totals = ledger.totals(time.time() - args.days * DAY if args.days else 0)
    finally:
        ledger.database.close()
    print(json.dumps([asdict(total) for total in totals]) if args.json else table(totals))
    return 0


def table(totals: "list[Total]") -> str:
    """The totals for people."""
    from nearfield.node.prices import dollars

    lines = [f"{'model':<32}{'responses':>10}{'prompt':>12}{'cached':>12}{'answer':>12}{'dollars':>16}"]
    lines += [f"{total.model:<32}{total.responses:>10}{total.prompt_tokens:>12}{total.cached_tokens:>12}"
              f"{total.completion_tokens:>12}{dollars(total.cost_nano):>16}" for total in totals]
    return "\n".join(lines) if totals else "no responses"
