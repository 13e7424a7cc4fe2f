"""`nearfield node discover`: the nodes of a registry. Needs no keys."""

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from nearfield.cli.node_common import add_config, need_extra
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.node.registry import Agent, Discovery

HELP = "list the nodes of the registry"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which registry."""
    add_config(parser)
    parser.add_argument("--registry", metavar="ACCOUNT", help="the contract (default: `registry` of the options)")
    parser.add_argument("--model", metavar="NAME", help="only nodes that serve it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError without a registry, IdentityError where it is no account, ChainError if it is not read."""
    need_extra()
    from nearfield.node.chain import Chain
    from nearfield.node.config import read_config
    from nearfield.node.keys import check_account
    from nearfield.node.registry import discover

    config = read_config(args.node_config)
    named = args.registry or config.registry
    if named is None:
        raise ConfigError("which registry? give --registry ACCOUNT, or write registry into the node's options")
    contract = check_account(named)

    async def read() -> "Discovery":
        async with Chain(config.network, config.rpc_url) as chain:
            return await discover(chain, contract)

    found = asyncio.run(read())
    agents = [agent for agent in found.agents
              if args.model is None or any(offer.name == args.model for offer in agent.registration.models)]
    for line in found.skipped:
        print(f"skipped {line}", file=sys.stderr)
    print(json.dumps([asdict(agent) for agent in agents]) if args.json else table(agents))
    return 0


def table(agents: "list[Agent]") -> str:
    """A line for each model of each node; prices in nano-dollars per token."""
    lines = [f"{'account':<28}{'model':<32}{'prompt':>8}{'cached':>8}{'answer':>8}  {'profile':<16}endpoint"]
    for agent in agents:
        for offer in agent.registration.models:
            prices = "".join(f"{price / 10**6:>8g}" for price in (offer.prompt, offer.cached, offer.completion))
            lines.append(f"{agent.account_id:<28}{offer.name:<32}{prices}  {agent.registration.profile:<16}"
                         f"{agent.registration.endpoint}")
    return "\n".join(lines) if agents else "no nodes"
