"""`nearfield analyze`: what could be taken from each layer of a model and what it would cost, as a table."""

import argparse
import json
from pathlib import Path
from typing import Any

from nearfield.cli.options import add_device
from nearfield.cli.progress import shown
from nearfield.core.errors import ConfigError

HELP = "tell what pruning each layer would cost"
NOTE = """\
Errors are the mean squared error of a matrix's output over the output's mean square, each matrix by itself; those of
zeros are the mean over a layer's matrices. Zeros, half of the weights or two of every four, make nothing faster on a
CPU: they are multiplied by all the same. What nearfield prune takes out does: layers, channels, heads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's folder or hub id, of dense weights")
    parser.add_argument("--calibration", metavar="FILE", type=Path, nargs="+",
                        help="UTF-8 text like what the model is used for, some 40,000 words")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def run(args: argparse.Namespace) -> int:
    from nearfield.compress.analyze import analyze
    from nearfield.compress.device import open_device
    from nearfield.models.loader import find_model

    if not args.calibration:
        raise ConfigError("analysis looks at text: give --calibration FILE, text like what the model is used for")
    open_device(args.device)
    with shown("analysing", "layer") as show:
        result = analyze(find_model(args.model), args.calibration, device=args.device, progress=show)
    print(table(result))
    print(f"\n{NOTE}")
    if args.json:
        print(json.dumps(result, allow_nan=False))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result for people: a row a layer."""
    head = ("layer", "1 - cos", "-20% channels", "-1 kv head", "50% magnitude", "50% Wanda", "2:4 Wanda")
    rows: list[tuple[str, ...]] = [head]
    for layer in result["layers"]:
        means = (_mean([matrix.get(name) for matrix in layer["matrices"]])
                 for name in ("magnitude", "wanda", "wanda_2_of_4"))
        figures = (layer["influence"], layer["ffn_80"], layer.get("one_kv_head_fewer"), *means)
        rows.append((str(layer["layer"]), *("-" if value is None else f"{value:.4f}" for value in figures)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
