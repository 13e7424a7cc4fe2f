"""`nearfield node status`: whose node this is, how it serves, what its ledger holds, and what to look into."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfield.cli.node_common import add_config, describe_identity, need_extra

if TYPE_CHECKING:
    from nearfield.node.config import NodeConfig
    from nearfield.node.credits import Credit

HELP = "show the node's account, options and ledger, and the top-ups whose end is not known"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, IdentityError, LedgerError."""
    need_extra()
    from nearfield.node.config import read_config
    from nearfield.node.identity import default_home, load

    config, home = read_config(args.node_config), default_home()
    identity, prices = load(home), config.prices.parsed()
    books = _books(home, config)
    if args.json:
        print(json.dumps({
            "account_id": identity.account_id, "public_key": identity.public_key,
            "ecdsa_address": identity.signing_address("ecdsa"), "home": str(home), "tee": config.tee,
            "payment": config.payment, "network": config.network, "registry": config.registry,
            "nano_dollars_per_token": {"prompt": prices.prompt, "cached": prices.cached,
                                       "completion": prices.completion}, **books}))
        return 0
    print(describe_identity(identity, home))
    ledger = "none yet: a node makes it when it serves" if books["ledger"] is None else \
        f"{books['ledger']}, {books['responses']} responses"
    for name, value in (("evidence", "no TEE" if config.tee == "none" else config.tee), ("payment", config.payment),
                        ("prices", prices), ("network", config.network), ("registry", config.registry or "none"),
                        ("ledger", ledger), *_open_top_ups(books["top_ups"])):
        print(f"{name:<12}{value}")
    return 0


def _books(home: Path, config: "NodeConfig") -> dict[str, Any]:
    """What the ledger holds; `ledger` is None where there is none."""
    from nearfield.node.build import read_ledger
    from nearfield.node.credits import Credits
    from nearfield.node.database import NoLedgerError

    try:
        ledger = read_ledger(home, config)
    except NoLedgerError:
        return {"ledger": None, "responses": 0, "top_ups": []}
    try:
        credits = Credits(ledger)
        return {"ledger": ledger.database.place, "responses": sum(total.responses for total in ledger.totals()),
                "top_ups": [_as_json(credit) for credit in (*credits.unsettled(), *credits.disputed())]}
    finally:
        ledger.database.close()


def _as_json(credit: "Credit") -> dict[str, Any]:
    return {"id": credit.id, "payer": credit.payer, "nano_dollars": str(credit.nano), "state": credit.state,
            "attempts": credit.attempts}


def _open_top_ups(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """A line for each, with what becomes of it."""
    from nearfield.node.prices import dollars

    fate = {"settling": "not known yet whether it was paid; the node asks again when it starts",
            "disputed": "refused, after an attempt that may have been paid: look for it on the chain"}
    return [("top-up", f"{each['id']}: {dollars(int(each['nano_dollars']))} dollars, {fate[each['state']]}")
            for each in found]
