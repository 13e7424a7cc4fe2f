"""`nearfield node front`: a NEAR node before any OpenAI-compatible engine, such as vLLM or SGLang."""

import argparse
import logging
from contextlib import ExitStack

from nearfield.cli import options
from nearfield.cli.node_common import add_config, describe_keys, describe_node, open_from

HELP = "put a node before an engine that serves over HTTP"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine, and where and for whom to serve."""
    from nearfield.cli.serve import add_address

    parser.add_argument("engine", type=options.url, help="where the engine listens, such as http://host:8000")
    parser.add_argument("--model", metavar="NAME", required=True, help="the model, as the engine calls it")
    add_config(parser)
    add_address(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal. Raises NearfieldError before anything is served."""
    from nearfield.cli.serve import keys_of, show, url_of
    from nearfield.server.run import bind, serve_front

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    keys = keys_of(args)
    with bind(args.host, args.port) as sock, ExitStack() as opened:
        node = open_from(args.node_config, args.model, keys)
        opened.callback(node.close)
        from nearfield.node.upstream import Upstream

        engine = Upstream(args.engine)

        async def close() -> None:
            await engine.aclose()
            await node.aclose()

        lines = [f"model     {args.model}, served by {args.engine}", f"URL       {url_of(sock)}/v1",
                 *describe_keys(sock.getsockname()[0], keys, node), *describe_node(node)]
        return serve_front(node.front(engine), sock, close, ready=lambda: show(lines))
