"""What the commands of a node share: the extra that they need, the node's options, its keys in words."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.node.identity import Identity

EXTRA = ("nacl", "base58", "coincurve", "Crypto", "sqlalchemy", "httpx")


def need_extra() -> None:
    """Raises ConfigError where the packages of a node are not installed."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise ConfigError(f"a NEAR node needs packages that are not installed ({', '.join(missing)}): "
                          "pip install 'nearfield[node]'")


def add_config(parser: argparse.ArgumentParser) -> None:
    """The node's options file."""
    parser.add_argument("--node-config", metavar="FILE", type=Path,
                        help="the node's options, in TOML: payment, prices, ledger, registry (default: free of charge)")


def describe_identity(identity: "Identity", home: Path) -> str:
    """A node's names and public keys, a line for each."""
    rows = (("account", identity.account_id), ("public key", identity.public_key),
            ("ed25519", identity.signing_address("ed25519")), ("ecdsa", identity.signing_address("ecdsa")),
            ("keys in", str(home)))
    return "\n".join(f"{name:<12}{value}" for name, value in rows)
