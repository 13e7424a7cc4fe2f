"""`nearfield verify`: a receipt checked, and the answer that it is of computed again, bit for bit."""

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nearfield.cli import options
from nearfield.core.config import EngineConfig
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.proof.report import Report

HELP = "check a receipt by computing its answer again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("receipt", metavar="RECEIPT", type=Path,
                        help="what GET /v1/receipt/ID answered, or one receipt of it, in a file")
    parser.add_argument("--model", metavar="MODEL", help="the model's folder or hub id (default: the pocket model)")
    parser.add_argument("--prompt", metavar="FILE", type=Path,
                        help="the request's JSON, a JSON list of token ids, or the prompt's text")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the reply's JSON, or the text that was delivered")
    parser.add_argument("--nonce", metavar="HEX", type=_nonce, help="the nonce that was sent in X-Receipt-Nonce")
    parser.add_argument("--node-nonce", metavar="HEX", type=_nonce,
                        help="the one that was fetched before and sent in X-Receipt-Node-Nonce")
    parser.add_argument("--node-key", metavar="KEY", help="the node's public key, ed25519:...")
    parser.add_argument("--approximate", action="store_true",
                        help="accept a receipt of a node whose bits nobody can repeat, within a tolerance")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead")
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """0 where every receipt was verified by replay, 1 where something differs or could not be computed."""
    from nearfield.cli.asked import read_asked, read_output
    from nearfield.engine.build import load_engine
    from nearfield.proof.disclosure import read_receipts
    from nearfield.proof.model_root import subject_of
    from nearfield.proof.verify import Known, verify

    receipts = read_receipts(_read(args.receipt))
    loaded = load_engine(args.model, EngineConfig(**options.engine_options(args)), progress=True)
    subject, reports = subject_of(loaded), []
    asked = read_asked(loaded, _read(args.prompt)) if args.prompt else None
    if asked is not None and asked.options and len(asked.requests) != len(receipts):
        raise ConfigError(f"{args.prompt} asks for {len(asked.requests)} answers, and {args.receipt} has "
                          f"{len(receipts)} receipts; give all that GET /v1/receipt/ID answered")
    output = _read(args.output) if args.output else None
    for index, receipt in enumerate(receipts):
        known = asked.known(index) if asked else Known()
        if output is not None:
            known = read_output(known, output, index)
        known = replace(known, client_nonce=args.nonce, node_nonce=args.node_nonce, public_key=args.node_key)
        reports.append(verify(receipt, loaded, subject, known, allow_approximate=args.approximate))
    if args.json:
        print(json.dumps({"receipts": [report.to_json() for report in reports]}))
    else:
        print("\n\n".join("\n".join([*report.lines(), _verdict(report)])
                          for report in reports))
    return 0 if all(report.verified for report in reports) else 1


def _verdict(report: "Report") -> str:
    if report.verified and report.approximate:
        return "approximate: the answer is like what this model gives; a changed weight could pass"
    if report.verified:
        return "verified: the answer is what this model gives, bit for bit"
    return "NOT verified" if report.replayed else "NOT verified: the answer was not computed again"


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _nonce(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a nonce of 64 hexadecimal digits")
    return bytes.fromhex(text)
