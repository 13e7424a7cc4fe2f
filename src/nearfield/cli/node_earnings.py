"""`nearfield node earnings`: what the node has earned, and what its vouchers entitle it to."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from nearfield.cli.node_common import add_config, need_extra

if TYPE_CHECKING:
    from nearfield.node.ledger import Earnings

HELP = "what was earned from balances and channels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document; amounts are strings")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, LedgerError."""
    need_extra()
    from nearfield.node.build import read_ledger
    from nearfield.node.config import read_config
    from nearfield.node.identity import default_home

    ledger = read_ledger(default_home(), read_config(args.node_config))
    try:
        earned = ledger.earnings()
    finally:
        ledger.database.close()
    # Strings: units of a chain's token exceed the 53 bits that readers of JSON can count on.
    print(json.dumps({name: str(value) for name, value in asdict(earned).items()}) if args.json else table(earned))
    return 0


def table(earned: "Earnings") -> str:
    """The sums for people."""
    from nearfield.node.chain import near
    from nearfield.node.prices import dollars

    return "\n".join((
        f"{'charged to API keys':<34}{dollars(earned.prepaid_nano)} dollars",
        f"{'left on their balances':<34}{dollars(earned.prepaid_left_nano)} dollars",
        f"{'charged to channels':<34}{near(earned.channel_units)} NEAR",
        f"{'vouchers in hand':<34}{near(earned.voucher_units)} NEAR",
    ))
