"""`nearfield node withdraw`: collects what payment channels owe. Without --send it says what would be signed."""

import argparse
import asyncio
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from nearfield.cli.node_common import add_config, need_extra
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.node.collect import Collector, Owed
    from nearfield.node.ledger import Ledger

HELP = "collect what payment channels owe, or say what would be signed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which channels, and whether for good."""
    add_config(parser)
    parser.add_argument("--channel", metavar="ID", help="this one only (default: all that have paid this node)")
    parser.add_argument("--close", action="store_true",
                        help="then end the channel, whose rest goes back to its sender; needs --channel, and a node "
                             "that is stopped: a voucher that it took afterwards would be worth nothing")
    parser.add_argument("--send", action="store_true", help="sign and send it; without, nothing is signed")


def run(args: argparse.Namespace) -> int:
    """1 where a channel could not be collected from, which is said. Raises ConfigError, IdentityError, LedgerError."""
    need_extra()
    from nearfield.node.build import read_ledger
    from nearfield.node.chain import Chain
    from nearfield.node.collect import Collector
    from nearfield.node.config import read_config
    from nearfield.node.hold import Hold
    from nearfield.node.identity import default_home, load

    config = read_config(args.node_config)
    if config.channels is None:
        raise ConfigError("the options name no channel contract; write channels = \"ACCOUNT\" into a file and give it "
                          "with --node-config")
    if args.close and args.channel is None:
        raise ConfigError("--close ends one channel: name it with --channel ID")
    contract, home = config.channels, default_home()
    identity, ledger = load(home), read_ledger(home, config)
    opened = ExitStack()
    opened.callback(ledger.database.close)

    async def collect() -> int:
        async with Chain(config.network, config.rpc_url, identity) as chain:
            return await _all(Collector(ledger, chain, contract, identity), ledger, args)

    with opened:
        if args.close and args.send:
            opened.callback(Hold(home).close)
        return asyncio.run(collect())


async def _all(collector: "Collector", ledger: "Ledger", args: argparse.Namespace) -> int:
    from nearfield.node.collect import last_vouchers
    from nearfield.node.rpc import ChainError

    vouchers = [voucher for voucher in last_vouchers(ledger) if args.channel in (None, voucher.channel_id)]
    if not vouchers:
        raise ConfigError("no channel has paid this node yet" if args.channel is None
                          else f"channel {args.channel!r} has not paid this node")
    failures = 0
    for voucher in vouchers:
        try:
            owed = await collector.owed(voucher)
            if owed is None:
                print(f"channel {voucher.channel_id}: closed")
                continue
            print(_words(owed))
            await _one(collector, owed, args)
        except ChainError as error:
            failures += 1
            print(error, file=sys.stderr)
    if not args.send:
        print("dry run: nothing was signed; --send signs and sends it")
    return 1 if failures else 0


async def _one(collector: "Collector", owed: "Owed", args: argparse.Namespace) -> None:
    if not args.send:
        if owed.units:
            print(collector.withdrawal(owed))
        if args.close:
            print(collector.closing(owed))
        return
    if owed.units:
        print(f"withdrawn, transaction {(await collector.withdraw(owed)).transaction}")
    if args.close:
        print(f"closed, transaction {(await collector.close(owed.channel.channel_id)).transaction}")


def _words(owed: "Owed") -> str:
    from nearfield.node.chain import near

    channel = owed.channel
    ending = "; its sender is closing it" if channel.force_close_started is not None else ""
    return (f"channel {channel.channel_id} of {channel.sender.account_id}: {near(owed.units)} NEAR are owed "
            f"({owed.voucher.spent_balance} yoctoNEAR vouched for, {channel.withdrawn_balance} withdrawn){ending}")
