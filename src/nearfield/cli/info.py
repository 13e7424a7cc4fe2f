"""`nearfield info`: what a model is, and what would be used to run it here. Loads no weights."""

import argparse
import json
from typing import Any

from nearfield.cli.options import add_dtype, add_model
from nearfield.core.config import format_bytes

HELP = "tell what a model is and what would be used to run it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_dtype(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead")


def run(args: argparse.Namespace) -> int:
    from nearfield.cli.describe import describe

    facts = describe(args.model, args.dtype)
    print(json.dumps(facts) if args.json else text(facts))
    return 0


def text(facts: dict[str, Any]) -> str:
    """The facts for people: a line each."""
    used = facts["would_use"]
    dtype = used["dtype"]
    kv = facts["kv_bytes_per_token"][dtype]
    rows = {
        "model": f"{facts['model']}  ({facts['folder']})",
        "architecture": facts["architecture"],
        "parameters": f"{facts['parameters']:,}",
        "weights": ", ".join(f"{format_bytes(n)} in {name}" for name, n in facts["bytes"].items()),
        "stored": f"{facts['stored']['format']}; {format_bytes(facts['stored']['bytes'])} of weights",
        "layers": f"{facts['layers']}, hidden size {facts['hidden_size']}",
        "heads": f"{facts['heads']} query, {facts['kv_heads']} key/value, of {facts['head_dim']}",
        "context": f"{facts['context']:,} tokens",
        "vocabulary": f"{facts['vocab_size']:,}",
        "tokenizer": facts["tokenizer"] or "none",
        "chat template": "yes" if facts["chat_template"] else "no",
        "KV cache": f"{format_bytes(kv)} a token in {dtype}; 1 GiB holds {2**30 // kv:,} tokens",
        "would use": f"{dtype}, {used['threads']} threads, {used['backend']} backend, "
                     f"profile {used['profile'] or 'none'}",
        **{f"  {name}": function for name, function in used["ops"].items()},
    }
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{width}}{value}" for name, value in rows.items())
