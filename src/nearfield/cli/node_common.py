"""What the commands of a node share: the extra that they need, the node's options, its keys in words."""

import argparse
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.node.build import OpenNode
    from nearfield.node.identity import Identity
    from nearfield.server.keys import KeyRing

LOOPBACK = ("127.0.0.1", "::1", "localhost")
EXTRA = ("nacl", "base58", "coincurve", "Crypto", "sqlalchemy", "httpx", "py_near_primitives")


def need_extra() -> None:
    """Raises ConfigError where the packages of a node are not installed."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise ConfigError(f"a NEAR node needs packages that are not installed ({', '.join(missing)}): "
                          "pip install 'nearfield[node]'")


def add_config(parser: argparse.ArgumentParser) -> None:
    """The node's options file."""
    parser.add_argument("--node-config", metavar="FILE", type=Path,
                        help="the node's options, in TOML: payment, prices, ledger, registry (default: free of charge)")


def open_from(config: Path | None, model: str, keys: "KeyRing") -> "OpenNode":
    """The node of this user, for `model`. Raises ConfigError, IdentityError, LedgerError."""
    need_extra()
    # It says every URL that is asked, and one can hold an access key.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from nearfield.node.build import open_node
    from nearfield.node.config import read_config
    from nearfield.node.identity import default_home

    return open_node(default_home(), read_config(config), model, keys)


def check_node(config: Path | None) -> None:
    """Raises ConfigError, IdentityError where there is no node to be: before a model is loaded for it."""
    need_extra()
    from nearfield.node.config import read_config
    from nearfield.node.identity import default_home, load

    read_config(config)
    load(default_home())


def describe_identity(identity: "Identity", home: Path) -> str:
    """A node's names and public keys, a line for each."""
    rows = (("account", identity.account_id), ("public key", identity.public_key),
            ("ed25519", identity.signing_address("ed25519")), ("ecdsa", identity.signing_address("ecdsa")),
            ("keys in", str(home)))
    return "\n".join(f"{name:<12}{value}" for name, value in rows)


def describe_keys(host: str, keys: "KeyRing", node: "OpenNode | None" = None) -> list[str]:
    """The lines of a banner that say who may come in, by way of the address `host`."""
    if keys:
        return ["API keys  needed"]
    if node is not None and node.config.payment != "free":
        return ["API keys  none: whoever reaches the port may ask, and pays"]
    lines = ["API keys  none: whoever reaches the port may use it"]
    if host not in LOOPBACK:
        lines.append("WARNING   open to the network without a key; give --api-key-file or --host 127.0.0.1")
    return lines


def describe_node(node: "OpenNode", receipts: str | None = None) -> list[str]:
    """The lines of a banner that say whose node it is, what vouches for it and what it costs. receipts: the profile of
    those that it gives; None: it gives none."""
    identity, config = node.identity, node.config
    tee = "no TEE: no hardware vouches for what computes here" if config.tee == "none" else "TDX, by dstack"
    checked = "none: only Nearfield's own engine, with the C++ kernels, gives them" if receipts is None else \
        f"{receipts}, for who asks with X-Receipt-Nonce; nearfield verify computes the answer again"
    paid = {"free": "free of charge", "prepaid": "from balances of API keys", "channel": "by channel vouchers",
            "both": "from balances of API keys, or by channel vouchers"}
    return [
        f"account   {identity.account_id}",
        f"address   {identity.signing_address('ecdsa')} (ecdsa), ed25519 as the account's key",
        f"evidence  {tee}",
        "signed    the hashes of each request and its answer: who answered what, not how it was computed",
        f"receipts  {checked}",
        f"payment   {paid[config.payment]}; {node.prices}",
    ]
