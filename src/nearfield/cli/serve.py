"""`nearfield serve`: a model behind an OpenAI-compatible HTTP server."""

import argparse
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from nearfield.cli import options
from nearfield.core.config import EngineConfig, format_bytes

if TYPE_CHECKING:
    from nearfield.engine.build import Loaded
    from nearfield.server.keys import KeyRing

HELP = "serve a model over HTTP, as OpenAI does"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the engine's options, and where and for whom to serve."""
    options.add_model(parser)
    options.add_engine(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--api-key-file", metavar="FILE", type=Path,
                        help="accept only these keys: one a line; lines that begin with # are skipped")
    parser.add_argument("--served-model-name", metavar="NAME", help="what clients call the model")


def run(args: argparse.Namespace) -> int:
    """Load, serve until a signal, return the exit status. Raises NearfieldError before anything is served."""
    from nearfield.engine.build import load_engine
    from nearfield.engine.loop import EngineLoop
    from nearfield.server.app import create_app
    from nearfield.server.keys import KeyRing, read_keys
    from nearfield.server.run import bind, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # uvicorn's news (started, shutting down) repeat ours; its warnings do not.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = EngineConfig(**options.engine_options(args))
    keys = read_keys(args.api_key_file) if args.api_key_file else KeyRing()
    # Before the model: a port that is taken should not cost a minute of loading.
    with bind(args.host, args.port) as sock:
        loaded = load_engine(args.model, config, progress=True)
        loop = EngineLoop(loaded.engine)
        app = create_app(loaded, loop, keys=keys, name=args.served_model_name)
        loop.start()
        try:
            sock.listen()   # who has read the banner may connect; uvicorn accepts in a moment
            print(banner(loaded, config, sock, keys, args.served_model_name or loaded.name), flush=True)
            return serve(app, sock, loop)
        finally:
            loop.stop()


def banner(loaded: "Loaded", config: EngineConfig, sock: socket.socket, keys: "KeyRing", name: str) -> str:
    """What someone who starts a server wants to know, in a box; below it, a line to try it with."""
    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    tokens = loaded.engine.stats().pages_total * config.page_size
    lines = [
        f"model     {name}, {config.dtype}",
        f"context   {loaded.engine.max_context:,} tokens a request, {config.max_seqs} requests a step",
        f"KV cache  {tokens:,} tokens in {format_bytes(loaded.kv_bytes)}",
        f"URL       {url}/v1",
        f"API keys  {'needed' if keys else 'none: whoever reaches the port may use it'}",
    ]
    if host not in LOOPBACK and not keys:
        lines.append("WARNING   open to the network without a key; give --api-key-file or --host 127.0.0.1")
    key = " -H 'Authorization: Bearer KEY'" if keys else ""
    body = f'{{"model":"{name}","messages":[{{"role":"user","content":"Hello"}}]}}'
    curl = f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"
    return f"{_box(lines)}\n{curl}"


def _box(lines: list[str]) -> str:
    width = max(map(len, lines))
    rows = [f"│ {line:<{width}} │" for line in lines]
    return "\n".join([f"╭{'─' * (width + 2)}╮", *rows, f"╰{'─' * (width + 2)}╯"])


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 to 65535")
    return int(text)
