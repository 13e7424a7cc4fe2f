"""`nearfield node status`: whose node this is, how it serves, and what its ledger holds."""

import argparse
import json

from nearfield.cli.node_common import add_config, describe_identity, need_extra

HELP = "show the node's account, options and ledger"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, IdentityError, LedgerError."""
    need_extra()
    from nearfield.node.build import open_ledger
    from nearfield.node.config import read_config
    from nearfield.node.identity import default_home, load

    config, home = read_config(args.node_config), default_home()
    identity, prices = load(home), config.prices.parsed()
    ledger = open_ledger(home, config)
    try:
        place, responses = ledger.database.place, sum(total.responses for total in ledger.totals())
    finally:
        ledger.database.close()
    if args.json:
        print(json.dumps({
            "account_id": identity.account_id, "public_key": identity.public_key,
            "ecdsa_address": identity.signing_address("ecdsa"), "home": str(home), "tee": config.tee,
            "payment": config.payment, "network": config.network, "registry": config.registry,
            "nano_dollars_per_token": {"prompt": prices.prompt, "cached": prices.cached,
                                       "completion": prices.completion},
            "ledger": place, "responses": responses}))
        return 0
    print(describe_identity(identity, home))
    for name, value in (("evidence", "no TEE" if config.tee == "none" else config.tee), ("payment", config.payment),
                        ("prices", prices), ("network", config.network), ("registry", config.registry or "none"),
                        ("ledger", f"{place}, {responses} responses")):
        print(f"{name:<12}{value}")
    return 0
