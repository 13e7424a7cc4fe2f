"""`nearfield verify`: a receipt checked, and the answer that it is of computed again, bit for bit."""

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfield.cli import options
from nearfield.core.config import EngineConfig
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.cli.exchange import Verdict
    from nearfield.proof.claims import Known

HELP = "check a receipt by computing its answer again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("receipt", metavar="RECEIPT", type=Path,
                        help="what GET /v1/receipt/ID answered, in a file")
    parser.add_argument("--model", metavar="MODEL", help="the model's folder or hub id (default: the pocket model)")
    parser.add_argument("--prompt", metavar="FILE", type=Path,
                        help="the request's JSON, a JSON list of token ids, or the prompt's text")
    parser.add_argument("--output", metavar="FILE", type=Path,
                        help="the reply as it came, JSON or a stream of events, or an answer's text")
    parser.add_argument("--nonce", metavar="HEX", type=_nonce, help="the nonce that was sent in X-Receipt-Nonce")
    parser.add_argument("--node-nonce", metavar="HEX", type=_nonce,
                        help="the one that was fetched before and sent in X-Receipt-Node-Nonce")
    parser.add_argument("--node-key", metavar="KEY", type=options.node_key, help="the node's public key, ed25519:...")
    parser.add_argument("--approximate", action="store_true",
                        help="accept a receipt of a node whose bits nobody can repeat, within a tolerance")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead")
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """0 where every answer was verified by replay, 1 where something differs or could not be computed."""
    from nearfield.cli.asked import read_prompt, read_request
    from nearfield.cli.delivered import is_reply
    from nearfield.cli.exchange import Verifier
    from nearfield.engine.build import load_engine
    from nearfield.proof.disclosure import read_receipts
    from nearfield.proof.errors import ReceiptError
    from nearfield.proof.model_root import subject_of
    from nearfield.proof.report import lines

    try:
        receipts = read_receipts(_read(args.receipt))
    except ReceiptError as error:
        raise type(error)(f"{args.receipt}: {error}; give what GET /v1/receipt/ID answered") from None
    prompt, output = (None if path is None else _read(path) for path in (args.prompt, args.output))
    body = None if prompt is None else read_request(prompt)
    known = _known(args, body or {})
    loaded = load_engine(args.model, EngineConfig(**options.engine_options(args)), progress=True)
    verifier = Verifier(loaded, subject_of(loaded), args.approximate)
    reply = output if output is not None and is_reply(output) else None
    if output is not None and reply is None:
        known = replace(known, text=_decoded(args.output, output))
    if body is not None:
        verdict = verifier.exchange(receipts, body, reply, known)
    elif reply is not None or (output is not None and len(receipts) > 1):
        raise ConfigError(f"{args.output} is compared with what its request makes of it; give the request's JSON as "
                          "--prompt")
    else:
        ids = None if prompt is None else read_prompt(loaded, prompt)
        verdict = verifier.receipts(receipts, replace(known, prompt_ids=ids))
    if args.json:
        print(json.dumps(verdict.to_json()))
    else:
        blocks = [report.lines() for report in verdict.reports]
        print("\n\n".join(map("\n".join, [*blocks, [*lines(verdict.response), _words(verdict)]])))
    return 0 if verdict.verified else 1


def _known(args: argparse.Namespace, body: Mapping[str, Any]) -> "Known":
    """What the command line and the request's headers tell."""
    from nearfield.cli.asked import carried
    from nearfield.proof.claims import Known

    nonces = []
    for option, given, header in (("--nonce", args.nonce, "x-receipt-nonce"),
                                  ("--node-nonce", args.node_nonce, "x-receipt-node-nonce")):
        sent = carried(body).get(header)
        if given is not None and sent is not None and given.hex() != sent.lower():
            raise ConfigError(f"{option} is not what the request carries as {header}; give one of them")
        try:
            nonces.append(given if sent is None else _nonce(sent))
        except argparse.ArgumentTypeError as error:
            raise ConfigError(f"{args.prompt}: {header}: {error}") from None
    return Known(client_nonce=nonces[0], node_nonce=nonces[1], public_key=args.node_key, between=(0.0, time.time()))


def _words(verdict: "Verdict") -> str:
    """The verdict in a line: what it rests on, and what it does not."""
    if not verdict.verified:
        again = all(report.replayed for report in verdict.reports)
        return "NOT verified" if again else "NOT verified: the answer was not computed again"
    said = "verified: the answer is what this model gives, bit for bit"
    if any(report.approximate for report in verdict.reports):
        said = "approximate: the answer is like what this model gives; a changed weight could pass"
    missing = dict.fromkeys(check.name for check in verdict.unchecked)
    held = dict.fromkeys(check.reason for check in verdict.checks if check.name == "limit" and check.reason
                         and check not in verdict.unchecked)
    return "; ".join([said, *held, *([f"not checked: {', '.join(missing)}"] if missing else [])])


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a file, or - for stdin") from None


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is neither a reply nor UTF-8 text") from None


def _nonce(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a nonce of 64 hexadecimal digits")
    return bytes.fromhex(text)
