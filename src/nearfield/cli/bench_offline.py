"""`nearfield bench offline`: a table for people, and with --json one JSON document as the last line."""

import argparse
import json
from typing import Any

from nearfield.cli.bench_common import add_subject, report, subject
from nearfield.cli.options import count, counts

HELP = "one prompt, then decoding at several batch sizes, without a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject(parser)
    parser.add_argument("--prompt", metavar="N", type=count, default=512,
                        help="tokens of a prompt (default: 512)")
    parser.add_argument("--output", metavar="N", type=count, default=128,
                        help="tokens to decode after it (default: 128)")
    parser.add_argument("--batch", metavar="N,N,...", type=counts, default=(1, 8, 16),
                        help="batch sizes to decode at (default: 1,8,16)")


def run(args: argparse.Namespace) -> int:
    from nearfield.bench.offline import OfflineParams, run_offline

    params = OfflineParams(args.prompt, args.output, args.batch)
    result = run_offline(subject(args), params, report)
    print(table(result))
    if args.json:
        print(json.dumps(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    prefill = result["prefill"]
    lines = [
        f"{result['model']}  {result['weights']}, {result['threads']} threads, "
        f"loaded in {result['load_s']:.2f} s, peak memory {result['peak_rss_gib']:.2f} GiB",
        f"{'':<22}{'tokens/s':>10}{'of the limit':>14}",
        f"{'prompt of ' + str(prefill['tokens']):<22}{prefill['tokens_per_s']:>10.1f}"
        f"{prefill['share_of_limit']:>14.0%}   first token after {prefill['ttft_s']:.3f} s",
    ]
    for row in result["decode"]:
        lines.append(f"{'decode, batch ' + str(row['batch']):<22}{row['tokens_per_s']:>10.1f}"
                     f"{row['share_of_limit']:>14.0%}")
    return "\n".join(lines)
