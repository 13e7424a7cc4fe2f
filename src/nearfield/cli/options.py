"""Options that several commands share, and the types that read their values."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nearfield.core.config import DTYPES, WEIGHTS, EngineConfig, parse_bytes
from nearfield.core.errors import ConfigError, NearfieldError, nearest
from nearfield.kernels.cpu import ISAS


def count(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas: 1,8,16."""
    return tuple(count(part.strip()) for part in text.split(","))


def node_key(text: str) -> str:
    """A node's public key: a typing error in it is no fault of the node's."""
    from nearfield.proof.keys import key_bytes

    try:
        key_bytes(text)
    except NearfieldError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def new_folder(text: str) -> Path:
    """The name of a folder to make: an empty one would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; give that of a folder to make")
    return Path(text)


def url(text: str) -> str:
    """Where a server listens, without its /v1."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} is not the URL of a server; give one such as http://host:8000")
    return text.rstrip("/").removesuffix("/v1")


def size(text: str) -> int:
    """A number of bytes: 4GiB, 512MiB."""
    try:
        return parse_bytes(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """A type of argument that is one of `names`; the error of another has the nearest."""
    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"unknown {text!r}{nearest(text, names)}; it is one of {', '.join(names)}")
        return text
    return check


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device of the commands that compute on text."""
    parser.add_argument("--device", metavar="DEVICE", type=one_of(("cpu", "cuda")), default="cpu",
                        help="where to compute: cpu, or cuda, a GPU. It is the same computation in another rounding, "
                             "not the same bits: what one has begun the other does not continue (default: %(default)s)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, which may be left out."""
    parser.add_argument("model", metavar="MODEL", nargs="?",
                        help="a model's folder, hub id or .gguf file (default: the pocket model that ships inside)")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """--dtype alone, for the commands that size everything else themselves."""
    parser.add_argument("--dtype", choices=DTYPES, default=EngineConfig.dtype,
                        help="of weights, activations and KV cache (default: %(default)s)")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The options of an engine; `engine_options` reads them."""
    add_dtype(parser)
    add_kernels(parser)
    parser.add_argument("--no-pack-cache", dest="pack_cache", action="store_const", const=False,
                        help="quantise at every start, and keep nothing in the user's cache")
    parser.add_argument("--kv-memory", metavar="SIZE", type=size,
                        help="bytes of the KV cache, such as 4GiB, allocated once (default: 1GiB)")
    parser.add_argument("--max-seqs", metavar="N", type=count,
                        help="requests in one step at most (default: 64)")
    parser.add_argument("--max-context", metavar="N", type=count,
                        help="tokens of one request at most, prompt and answer (default: what fits)")


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """How weights are stored and what multiplies by them."""
    parser.add_argument("--weights", choices=WEIGHTS,
                        help="quantise at load to int8 (w8) or int4 (w4) (default: as the folder stores them)")
    parser.add_argument("--group", type=int, choices=(32, 64, 128),
                        help="columns that share a scale (default: a whole row in w8, 64 in w4)")
    parser.add_argument("--isa", help=f"C++ kernels of this instruction set: {', '.join(ISAS)} (default: the best)")
    parser.add_argument("--threads", metavar="N", type=count,
                        help="threads of the C++ kernels (default: the CPUs this process may use)")


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The engine's options that were given, by their names in EngineConfig and LLM."""
    names = ("dtype", "kv_memory", "max_seqs", "max_context", "weights", "group", "isa", "threads", "pack_cache")
    return _set({name: getattr(args, name) for name in names})


def add_sampling(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """The options of an answer; `sampling_options` reads them. The model's folder decides the rest."""
    parser.add_argument("--max-tokens", metavar="N", type=count, default=max_tokens,
                        help="tokens of an answer at most (default: %(default)s)")
    parser.add_argument("--temperature", metavar="T", type=float,
                        help="0 takes the likeliest token every time")
    parser.add_argument("--top-p", metavar="P", type=float,
                        help="sample among the likeliest that add up to P")
    parser.add_argument("--top-k", metavar="K", type=int, help="sample among the K likeliest")
    parser.add_argument("--seed", metavar="N", type=int,
                        help="the same seed gives the same answer")


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given, by their names in SamplingParams."""
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    return _set({name: getattr(args, name) for name in names})


def _set(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
