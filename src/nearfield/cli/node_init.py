"""`nearfield node init`: a node's keys, made here or taken from near-cli."""

import argparse
from pathlib import Path

from nearfield.cli.node_common import describe_identity, need_extra

HELP = "make or import the node's keys"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose node it is."""
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--account", metavar="NAME", help="an account that exists, such as alice.near; its owner adds "
                                                         "the new public key to it")
    whose.add_argument("--implicit", action="store_true",
                       help="the account that belongs to the new key by itself (the default)")
    whose.add_argument("--import", metavar="FILE", type=Path, dest="file",
                       help="take account and key from near-cli's credentials file")


def run(args: argparse.Namespace) -> int:
    """Raises IdentityError: there are keys already, or the file is none."""
    need_extra()
    from nearfield.node.identity import create, default_home, import_credentials

    home = default_home()
    identity = import_credentials(home, args.file) if args.file else create(home, args.account)
    print(describe_identity(identity, home))
    if args.account:
        print(f"Add the public key to {args.account}, with near-cli or a wallet: only then does the chain know it.")
    return 0
