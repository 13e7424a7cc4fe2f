"""`nearfield audit`: ask a node, take receipts for every answer, and compute some of them again."""

import argparse
import json
from itertools import islice
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from nearfield.cli import options
from nearfield.core.config import EngineConfig
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from nearfield.cli.exchange import Verifier
    from nearfield.proof.audit import Auditor, Exchange, Tally

HELP = "ask a node and verify a fraction of its receipts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", type=options.url, help="the node, such as http://127.0.0.1:8000")
    parser.add_argument("--model", metavar="MODEL", help="the model's folder or hub id (default: the pocket model)")
    parser.add_argument("--fraction", metavar="F", type=_fraction, default=0.02,
                        help="of the answers, computed again (default: %(default)s)")
    parser.add_argument("--requests", metavar="N", type=options.count, default=100,
                        help="answers to ask for (default: %(default)s)")
    parser.add_argument("--prompts", metavar="FILE", type=Path,
                        help="prompts, one a line, to draw from (default: made up)")
    parser.add_argument("--api-key-file", metavar="FILE", type=Path, help="the file that holds the key to the node")
    parser.add_argument("--node-key", metavar="KEY", type=options.node_key, help="the node's public key, ed25519:...")
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
    from nearfield.cli.exchange import Verifier
    from nearfield.cli.questions import questions
    from nearfield.engine.build import load_engine
    from nearfield.proof.audit import Auditor
    from nearfield.proof.model_root import subject_of

    prompts = _lines(args.prompts) if args.prompts else ()
    headers = {"Authorization": f"Bearer {_lines(args.api_key_file)[0]}"} if args.api_key_file else {}
    loaded = load_engine(args.model, EngineConfig(**options.engine_options(args)), progress=True)
    verifier = Verifier(loaded, subject_of(loaded), args.approximate)
    with httpx.Client(base_url=args.url, headers=headers, timeout=600) as http:
        auditor = Auditor(http, lambda exchange: _faults(verifier, exchange, args.node_key), args.fraction,
                          public_key=args.node_key)
        name = _served(http)
        asked = questions(name, prompts, loaded.template is not None, options.sampling_options(args), SystemRandom())
        try:
            for path, body in islice(asked, args.requests):
                _ask(auditor, path, body)
        finally:
            print(json.dumps({"kind": "audit", "model": name, **_summary(auditor.tally), "fraction": args.fraction}))
    return 1 if auditor.tally.faults or not auditor.tally.responses else 0


def _ask(auditor: "Auditor", path: str, body: dict[str, Any]) -> None:
    """One question; what is wrong with its answer, and why there is none, is printed."""
    from nearfield.proof.audit import Refused

    seen = len(auditor.tally.faults)
    try:
        auditor.ask(path, body)
    except Refused as refusal:
        print(f"refused: {refusal}", flush=True)
    for fault in auditor.tally.faults[seen:]:
        print(fault, flush=True)


def _summary(tally: "Tally") -> dict[str, int]:
    return {"responses": tally.responses, "refused": tally.refused, "replayed": tally.replayed, "tokens": tally.tokens,
            "held_by_payment": tally.held, "faults": len(tally.faults)}


def _faults(verifier: "Verifier", exchange: "Exchange", public_key: str | None) -> list[str]:
    from nearfield.proof.claims import Known

    known = Known(client_nonce=exchange.client_nonce, node_nonce=exchange.node_nonce, public_key=public_key,
                  between=exchange.between)
    verdict = verifier.exchange(exchange.receipts, exchange.body, exchange.reply, known)
    return [f"{check.name}: {check.reason}" for check in verdict.failures]


def _served(http: Any) -> str:
    """The first model that the node serves."""
    import httpx

    place = f"{http.base_url.host}:{http.base_url.port or http.base_url.scheme}"     # and no name or password
    try:
        return str(http.get("/v1/models").raise_for_status().json()["data"][0]["id"])
    except httpx.TransportError as error:
        raise ConfigError(f"{place}: cannot be reached ({error}); is the node running?") from None
    except httpx.HTTPStatusError as error:
        raise ConfigError(f"{place}: answers /v1/models with {error.response.status_code}; a node that needs a key "
                          "takes --api-key-file") from None
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        raise ConfigError(f"{place}: is no node that tells its models at /v1/models") from None


def _lines(path: Path) -> tuple[str, ...]:
    try:
        found = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: cannot be read as text; give a file of UTF-8 text") from None
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
