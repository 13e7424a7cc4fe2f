"""`nearfield node register`: publishes the node in a registry contract. Without --send it says what would be signed."""

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nearfield.cli.node_common import add_config, need_extra
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.node.config import NodeConfig
    from nearfield.node.registry import Registration

HELP = "publish the node in the registry, or say what would be signed"
MILLION = 10**6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is published, and where."""
    parser.add_argument("model", nargs="+", help="names of the models that the node serves")
    add_config(parser)
    parser.add_argument("--endpoint", metavar="URL", help="where clients reach the node (default: `endpoint` of the "
                                                          "options)")
    parser.add_argument("--profile", default="none", help="numeric profile of its receipts, such as cpu-w4a8-v2 "
                                                          "(default: %(default)s)")
    parser.add_argument("--hardware", metavar="TEXT", default=hardware(), help="default: %(default)s")
    parser.add_argument("--send", action="store_true", help="sign and send it; without, nothing is signed")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError for what is missing, ChainError where the registry can not be read or refuses."""
    need_extra()
    from nearfield.node.chain import Chain
    from nearfield.node.config import read_config
    from nearfield.node.identity import default_home, load
    from nearfield.node.registry import register

    config = read_config(args.node_config)
    if config.registry is None:
        raise ConfigError("the options name no registry; write registry = \"ACCOUNT\" into a file and give it with "
                          "--node-config")
    contract, registration = config.registry, registration_of(args, config)
    identity = load(default_home())

    async def publish() -> int:
        async with Chain(config.network, config.rpc_url, identity) as chain:
            plan = await register(chain, contract, registration, dry_run=not args.send)
        print(json.dumps({"sent": args.send, "plan": plan.as_json()}) if args.json else plan)
        if not args.json:
            print("sent" if args.send else "dry run: nothing was signed; --send signs and sends it")
        return 0

    return asyncio.run(publish())


def registration_of(args: argparse.Namespace, config: "NodeConfig") -> "Registration":
    """What is published: every model at the node's prices. Raises ConfigError."""
    from nearfield.node.registry import Offer, Registration

    endpoint = args.endpoint or config.endpoint
    if endpoint is None:
        raise ConfigError("where do clients reach this node? give --endpoint URL, or write endpoint into the options")
    prices = config.prices.parsed()
    offers = tuple(Offer(name, prices.prompt * MILLION, prices.cached * MILLION, prices.completion * MILLION)
                   for name in args.model)
    return Registration(endpoint, offers, args.profile, args.hardware)


def hardware(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """This machine's processor in a few words."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {len(os.sched_getaffinity(0))} CPUs"
