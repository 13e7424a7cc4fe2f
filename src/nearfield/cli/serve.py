"""`nearfield serve`: a model behind an OpenAI-compatible HTTP server."""

import argparse
import json
import logging
import shlex
import shutil
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from nearfield.cli import options
from nearfield.cli.node_common import add_config, check_node, describe_keys, describe_node, open_from
from nearfield.core.config import EngineConfig, format_bytes
from nearfield.core.errors import ConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from nearfield.engine.build import Loaded
    from nearfield.engine.loop import EngineLoop
    from nearfield.node.build import OpenNode
    from nearfield.proof.notary import Notary
    from nearfield.server.keys import KeyRing
    from nearfield.server.run import Close

HELP = "serve a model over HTTP, as OpenAI does"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the engine's options, and where and for whom to serve."""
    options.add_model(parser)
    options.add_engine(parser)
    add_address(parser)
    parser.add_argument("--served-model-name", metavar="NAME", help="what clients call the model")
    parser.add_argument("--node", action="store_true", help="be a NEAR inference node: sign answers, meter, give "
                                                            "receipts (make keys first: nearfield node init)")
    add_config(parser)


def add_address(parser: argparse.ArgumentParser) -> None:
    """Where to listen, and who may come in."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--api-key-file", metavar="FILE", type=Path,
                        help="accept only these keys: one a line; lines that begin with # are skipped")


def run(args: argparse.Namespace) -> int:
    """Load, serve until a signal, return the exit status. Raises NearfieldError before anything is served."""
    from nearfield.engine.build import load_engine
    from nearfield.engine.loop import EngineLoop
    from nearfield.server.run import bind, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # uvicorn's news (started, shutting down) repeat ours; its warnings do not.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = EngineConfig(**options.engine_options(args))
    if args.node_config and not args.node:
        raise ConfigError("--node-config is for a NEAR node; give --node too")
    keys = keys_of(args)
    # Before the model: a port that is taken, or keys that are not there, should not cost a minute of loading.
    with bind(args.host, args.port) as sock, ExitStack() as closing:
        if args.node:
            check_node(args.node_config)
        loaded = load_engine(args.model, config, progress=True)
        loop = EngineLoop(loaded.engine)
        name = args.served_model_name or loaded.name
        app, lines, close = _application(args, loaded, loop, keys, name, sock.getsockname()[0], closing)
        loop.start()
        try:
            return serve(app, sock, loop, close,
                         ready=lambda: show(*banner(loaded, config, sock, bool(keys), name, lines)))
        finally:
            loop.stop()


def _application(args: argparse.Namespace, loaded: "Loaded", loop: "EngineLoop", keys: "KeyRing", name: str,
                 host: str, closing: ExitStack) -> "tuple[Starlette, list[str], Close]":
    """The server, as a NEAR node where that is asked for, what its banner says of who may use it, and what to close."""
    from nearfield.server.app import create_app
    from nearfield.server.run import nothing

    if not args.node:
        return create_app(loaded, loop, keys=keys, name=name), describe_keys(host, keys), nothing
    node = open_from(args.node_config, name, keys)
    closing.callback(node.close)
    notary = _notary(loaded, node)
    if notary is not None:
        closing.callback(notary.close)
    app = create_app(loaded, loop, name=name, receipts=notary, front=node.front)
    about = describe_node(node, None if notary is None else notary.subject.profile)
    return app, [*describe_keys(host, keys, node), *about], node.aclose


def _notary(loaded: "Loaded", node: "OpenNode") -> "Notary | None":
    """What gives receipts, where the engine's arithmetic has a profile."""
    from nearfield.node.identity import default_home
    from nearfield.proof.opening import open_notary

    if loaded.ops.profile is None:
        return None
    return open_notary(loaded, node.identity, default_home())


def keys_of(args: argparse.Namespace) -> "KeyRing":
    """The keys in the file that was named; none without."""
    from nearfield.server.keys import KeyRing, read_keys

    return read_keys(args.api_key_file) if args.api_key_file else KeyRing()


def banner(loaded: "Loaded", config: EngineConfig, sock: socket.socket, keys: bool, name: str,
           more: Sequence[str] = ()) -> tuple[list[str], str]:
    """What someone who starts a server wants to know, line by line, and a line to try it with. keys: whether that
    takes one."""
    url = url_of(sock)
    tokens = loaded.engine.stats().pages_total * config.page_size
    lines = [
        f"model     {name}, {config.dtype}",
        f"weights   {loaded.weights}",
        f"context   {loaded.engine.max_context:,} tokens a request, {config.max_seqs} requests a step",
        f"KV cache  {tokens:,} tokens in {format_bytes(loaded.kv_bytes)}",
        f"URL       {url}/v1",
        *more,
    ]
    key = " -H 'Authorization: Bearer KEY'" if keys else ""
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    curl = f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"
    return lines, curl


def url_of(sock: socket.socket) -> str:
    """The URL of a server that listens on `sock`."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def show(lines: Sequence[str], more: str = "") -> None:
    """Print `lines` in a box, and one below it."""
    print(box(lines, shutil.get_terminal_size().columns if sys.stdout.isatty() else None), *filter(None, (more,)),
          sep="\n", flush=True)


def box(lines: Sequence[str], columns: int | None = None) -> str:
    """`lines` in a frame; without one where a terminal of so many columns would break it."""
    width = max(map(len, lines))
    if columns is not None and width + 4 > columns:
        return "\n".join(lines)
    rows = [f"│ {line:<{width}} │" for line in lines]
    return "\n".join([f"╭{'─' * (width + 2)}╮", *rows, f"╰{'─' * (width + 2)}╯"])


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 to 65535")
    return int(text)
