"""`nearfield audit`: ask a node, take receipts for every answer, and compute some of them again."""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfield.cli import options
from nearfield.core.config import EngineConfig
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.engine.build import Loaded
    from nearfield.proof.audit import Exchange
    from nearfield.proof.report import Report
    from nearfield.proof.subject import Subject

HELP = "ask a node and verify a fraction of its receipts"
PROMPTS = ("Once upon a time", "Tell me about the sea.", "The cat sat on the", "Why is the sky blue?",
           "Write a short letter to a friend.", "A list of things to do today:")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="the node, such as http://127.0.0.1:8000")
    parser.add_argument("--model", metavar="MODEL", help="the model's folder or hub id (default: the pocket model)")
    parser.add_argument("--fraction", metavar="F", type=_fraction, default=0.02,
                        help="of the answers, computed again (default: %(default)s)")
    parser.add_argument("--requests", metavar="N", type=options.count, default=100,
                        help="answers to ask for (default: %(default)s)")
    parser.add_argument("--prompts", metavar="FILE", type=Path, help="prompts, one a line (default: a few of our own)")
    parser.add_argument("--chat", action="store_true", help="send the prompts as chats of one message")
    parser.add_argument("--api-key-file", metavar="FILE", type=Path, help="the file that holds the key to the node")
    parser.add_argument("--node-key", metavar="KEY", help="the node's public key, ed25519:...")
    parser.add_argument("--approximate", action="store_true",
                        help="accept receipts of a node whose bits nobody can repeat, within a tolerance")
    options.add_sampling(parser, max_tokens=64)
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """A line for each fault, one of JSON at the end; 1 where there was a fault."""
    try:
        import httpx
    except ImportError:
        raise ConfigError("an audit needs the packages of a node: pip install 'nearfield[node]'") from None
    from nearfield.engine.build import load_engine
    from nearfield.proof.audit import Auditor
    from nearfield.proof.model_root import subject_of

    prompts = _lines(args.prompts) if args.prompts else PROMPTS
    headers = {"Authorization": f"Bearer {_lines(args.api_key_file)[0]}"} if args.api_key_file else {}
    loaded = load_engine(args.model, EngineConfig(**options.engine_options(args)), progress=True)
    subject = subject_of(loaded)
    with httpx.Client(base_url=args.url, headers=headers, timeout=600) as http:
        auditor = Auditor(http, lambda exchange: _replay(exchange, loaded, subject, args), args.fraction)
        name = _served(http)
        path = "/v1/chat/completions" if args.chat else "/v1/completions"
        for body in islice(_bodies(name, prompts, args.chat, options.sampling_options(args)), args.requests):
            seen = len(auditor.tally.faults)
            auditor.ask(path, body)
            for fault in auditor.tally.faults[seen:]:
                print(fault, flush=True)
    tally = auditor.tally
    print(json.dumps({"kind": "audit", "model": name, "responses": tally.responses, "replayed": tally.replayed,
                      "tokens": tally.tokens, "faults": len(tally.faults), "fraction": args.fraction}))
    return 1 if tally.faults else 0


def _bodies(name: str, prompts: tuple[str, ...], chat: bool, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for prompt in cycle(prompts):
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        yield {"model": name, **asked, **given}


def _replay(exchange: "Exchange", loaded: "Loaded", subject: "Subject",
            args: argparse.Namespace) -> list["Report"]:
    from nearfield.cli.asked import asked_by, with_reply
    from nearfield.proof.verify import verify

    asked, reports = asked_by(loaded, exchange.body), []
    for index, receipt in enumerate(exchange.receipts):
        known = replace(with_reply(asked.known(index), exchange.reply, index), client_nonce=exchange.client_nonce,
                        node_nonce=exchange.node_nonce, public_key=args.node_key)
        reports.append(verify(receipt, loaded, subject, known, allow_approximate=args.approximate))
    return reports


def _served(http: Any) -> str:
    """The first model that the node serves."""
    import httpx

    try:
        return str(http.get("/v1/models").raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError):
        raise ConfigError(f"{http.base_url.host or 'the URL'}: is no node that tells its models at "
                          "/v1/models") from None


def _lines(path: Path) -> tuple[str, ...]:
    try:
        found = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: cannot be read as text") from None
    if not found:
        raise ConfigError(f"{path}: is empty")
    return found


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction above 0, up to 1")
    return value
