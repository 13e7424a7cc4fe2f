"""`nearfield node credit`: puts money that was paid in another way on an API key."""

import argparse
from decimal import Decimal, InvalidOperation
from pathlib import Path

from nearfield.cli.node_common import add_config, need_extra
from nearfield.core.errors import ConfigError

HELP = "put money on an API key that was paid for in another way"
MOST = 10**6
"""Dollars: more is a slip of the hand."""
MAX_REFERENCE = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose key, how much, and for what."""
    add_config(parser)
    parser.add_argument("--key-file", metavar="FILE", type=Path, required=True,
                        help="the API key, on one line; of it the ledger keeps a hash alone")
    parser.add_argument("--dollars", metavar="N", type=_nano, required=True, help="how much, such as 25 or 0.5")
    parser.add_argument("--reference", metavar="TEXT", type=_reference, required=True,
                        help="what was paid, such as an invoice's number: each is credited once")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError: nothing here is paid from balances, the key can not hold one, the reference is another's."""
    need_extra()
    from nearfield.node.accounts import key_payer
    from nearfield.node.build import open_ledger, read_secret
    from nearfield.node.config import read_config
    from nearfield.node.credits import Credits
    from nearfield.node.errors import NodeError
    from nearfield.node.identity import default_home
    from nearfield.node.payment import bearer_key
    from nearfield.node.prices import dollars

    config = read_config(args.node_config)
    if config.payment not in ("prepaid", "both"):
        raise ConfigError(f'this node takes no balances: its options say payment = "{config.payment}"; give those that '
                          'say "prepaid" or "both" with --node-config')
    try:
        payer = key_payer(bearer_key({"authorization": f"Bearer {read_secret(args.key_file)}"}))
    except NodeError as error:
        raise ConfigError(f"{args.key_file}: {error}") from None
    ledger = open_ledger(default_home(), config)
    try:
        new = Credits(ledger).grant(args.reference, payer, args.dollars)
        left = ledger.account(payer).available
    finally:
        ledger.database.close()
    done = f"credited {dollars(args.dollars)} dollars" if new else "credited before, and not again"
    print(f"{args.reference}: {done}; the key has {dollars(left)} dollars")
    return 0


def _nano(text: str) -> int:
    try:
        nano = Decimal(text) * 10**9
    except InvalidOperation:
        nano = Decimal("nan")
    if not nano.is_finite() or not 0 < nano <= MOST * 10**9 or nano != int(nano):
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount: give dollars above 0, up to {MOST}, with at most "
                                         "nine decimals")
    return int(nano)


def _reference(text: str) -> str:
    if not text.isprintable() or not 0 < len(text.strip()) <= len(text) <= MAX_REFERENCE:
        raise argparse.ArgumentTypeError(f"a reference has 1 to {MAX_REFERENCE} printable characters")
    return text
