"""`nearfield evaluate`: how far a made model is from its base, as a table, report.json and report.html."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nearfield.cli.options import count
from nearfield.core.config import format_bytes
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
    from tqdm import tqdm

    from nearfield.bench.fidelity_report import report_fidelity
    from nearfield.compress.report import REPORT
    from nearfield.models.loader import find_model

    base, candidate = find_model(args.base), find_model(args.candidate)
    if args.report is None and not Path(args.candidate).is_dir():
        raise ConfigError(f"{args.candidate}: is not a folder to put a report into; give one with --report")
    folder = args.report or candidate
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tqdm(desc="reading", unit="chunk", disable=None, leave=False) as bar:   # shown on a terminal only
            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
            result = report_fidelity(base, candidate, folder, args.text, args.tokens, told, show)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: cannot be written ({error.strerror}); give another place with "
                          "--report") from None
    print(table(result))
    print(f"wrote {folder / REPORT} and {folder / 'report.html'}")
    if args.json:
        print(json.dumps(result))
    return 0


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
        f"{'perplexity':<16}{perplexity['base']:.5g} to {perplexity['candidate']:.5g}, ratio {perplexity['ratio']:.5f} "
        f"({perplexity['ci95'][0]:.5f} to {perplexity['ci95'][1]:.5f})",
        f"{'weights':<16}{format_bytes(sizes['base'])} to {format_bytes(sizes['candidate'])}"]
    for label, key in (("peak memory GiB", "peak_rss_gib"), ("prompt tok/s", "prefill_tokens_per_s"),
                       ("answer tok/s", "decode_tokens_per_s")):
        lines.append(f"{label:<16}{cost['base'][key]:g} to {cost['candidate'][key]:g}")
    return "\n".join(lines)


def told(line: str) -> None:
    """Say on stderr what is being done."""
    print(f"evaluate: {line}", file=sys.stderr, flush=True)
