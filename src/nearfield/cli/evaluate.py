"""`nearfield evaluate`: how far a made model is from its base, as a table, report.json and report.html."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from nearfield.cli.options import count
from nearfield.cli.progress import shown
from nearfield.core.config import format_bytes, format_figure
from nearfield.core.errors import ConfigError

_TOKENS = 16384
HELP = "compare a quantised or smaller model with the one it was made of"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="the folder or hub id of the model it was made of")
    parser.add_argument("candidate", metavar="CANDIDATE", help="the folder, hub id or .gguf file of the model to judge")
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="+", required=True,
                        help="UTF-8 text like what the model is used for, and not what it was calibrated on")
    parser.add_argument("--tokens", metavar="N", type=count, default=_TOKENS,
                        help="tokens to score (default: %(default)s)")
    parser.add_argument("--report", metavar="FOLDER", type=Path,
                        help="where report.json and report.html go (default: the candidate's folder)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")


def run(args: argparse.Namespace) -> int:
    from nearfield.bench.fidelity_report import PAGE, report_fidelity
    from nearfield.compress.report import REPORT
    from nearfield.models.loader import find_model

    base, candidate = find_model(args.base), find_model(args.candidate)
    if args.report is None and not Path(args.candidate).is_dir():
        raise ConfigError(f"{args.candidate}: is not a folder to put a report into; give one with --report")
    folder = args.report or candidate
    try:
        with _made(folder), shown("reading", "chunk") as show:
            result = report_fidelity(base, candidate, folder, args.text, args.tokens, told, show)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written ({error.strerror}); give another place with "
                          "--report") from None
    print(table(result))
    print(f"wrote {folder / REPORT} and {folder / PAGE}")
    if args.json:
        print(json.dumps(result))
    return 0


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """`folder` is there before anything is measured for it, and what was made of it goes again when the block fails."""
    missing = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):     # there is something in it by now
            for path in missing:
                path.rmdir()
        raise


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    kl, top, perplexity = result["kl"], result["top1_agreement"], result["perplexity"]
    floor, sizes, cost = result["noise_floor"], result["bytes"], result["footprint"]
    lines = [
        f"{result['models']['candidate']} beside {result['models']['base']}: {result['band']}, over "
        f"{result['tokens']} tokens on {result['backend']}",
        f"{'KL':<16}{kl['mean']:.5f} ({kl['ci95'][0]:.5f} to {kl['ci95'][1]:.5f}), median {kl['median']:.5f}, 99 % "
        f"{kl['p99']:.4f}, largest {kl['max']:.3f}; noise floor {floor['kl']['mean']:.6f}",
        f"{'same top token':<16}{top['value']:.2%} ({top['ci95'][0]:.2%} to {top['ci95'][1]:.2%}); noise floor "
        f"{floor['top1_agreement']['value']:.2%}",
        f"{'perplexity':<16}{format_figure(perplexity['base'])} to {format_figure(perplexity['candidate'])}, ratio "
        f"{perplexity['ratio']:.5f} ({perplexity['ci95'][0]:.5f} to {perplexity['ci95'][1]:.5f})",
        f"{'weights':<16}{format_bytes(sizes['base'])} to {format_bytes(sizes['candidate'])}",
        f"{'peak memory':<16}{cost['base']['peak_rss_gib']:.2f} GiB to {cost['candidate']['peak_rss_gib']:.2f} GiB"]
    for label, key in (("prompt", "prefill"), ("answer", "decode")):
        base, candidate = (_speed(cost[name], key) for name in ("base", "candidate"))
        lines.append(f"{label:<16}{base} to {candidate} tokens/s, medians (slowest to fastest)")
    return "\n".join(lines)


def _speed(cost: dict[str, Any], key: str) -> str:
    low, high = map(format_figure, cost[f"{key}_range"])
    return f"{format_figure(cost[f'{key}_tokens_per_s'])} ({low} to {high})"


def told(line: str) -> None:
    """Say on stderr what is being done."""
    print(f"evaluate: {line}", file=sys.stderr, flush=True)
