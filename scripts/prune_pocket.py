"""What fitting to the old output is worth: the pocket model without a fifth of its MLPs' channels, fitted and not.

    python scripts/prune_pocket.py                                       # a table; some minutes
    python scripts/prune_pocket.py --json > bench/results/prune.jsonl    # one line of JSON each

It is calibrated on exchanges of the kind that made the pocket model and judged on held-out ones (2 % of
their passages, greetings and the like, are in both); figures are those of `nearfield evaluate`.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer

from nearfield.bench.fidelity import run_fidelity
from nearfield.compress.prune.folder import prune_folder
from nearfield.compress.prune.options import PruneOptions
from nearfield.compress.report import REPORT, read_report
from nearfield.models.loader import pocket_folder
from pocket import stories
from pocket.evaluate import GRADED, questions
from pocket.mix import documents
from pocket.template import ChatFormat
from quality import context

TOKENS = 16384
CANDIDATES = (PruneOptions(ffn=0.79), PruneOptions(ffn=0.79, compensate=False), PruneOptions(layers=-1),
              PruneOptions(heads=-1), PruneOptions(heads=-1, compensate=False))


def write_texts(work: Path) -> tuple[Path, Path]:
    """A text to calibrate on, and one to judge by."""
    calibration, held = work / "calibration.txt", work / "held-out.txt"
    calibration.write_text("".join(islice(documents(Random("pruning"), ChatFormat()), 500)), "utf-8")
    tokenizer = Tokenizer.from_file(str(pocket_folder() / "tokenizer.json"))
    asked = questions(tokenizer, seed=3, each=40, makers=(*GRADED, stories.story))
    Random(3).shuffle(asked)
    held.write_text("".join(tokenizer.decode([*each.prompt, *each.answer], skip_special_tokens=False)
                            for each in asked), "utf-8")
    return calibration, held


def measure(work: Path) -> Iterator[dict[str, Any]]:
    """A row for each candidate."""
    parent, (calibration, held) = pocket_folder(), write_texts(work)
    for number, options in enumerate(CANDIDATES):
        out = work / f"pruned-{number}"
        prune_folder(parent, out, options, [calibration])
        told = read_report(out / REPORT)["prune"]
        found = run_fidelity(parent, out, [held], TOKENS, lambda line: None, lambda done, total: None)
        yield {"kind": "prune", "model": "pocket", **told["recipe"], "before": told["before"], "after": told["after"],
               "dropped": told["layers"]["dropped"],
               **{key: found[key] for key in ("tokens", "kl", "top1_agreement", "perplexity", "band", "bytes")}}


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    kl, top = row["kl"], row["top1_agreement"]
    sizes = ", ".join(f"{name} {row['before'][name]} to {row['after'][name]}" for name in row["before"]
                      if row["before"][name] != row["after"][name])
    return (f"{sizes:<21} {'fitted' if row['compensate'] else 'as they were':<13} KL {kl['mean']:.5f} "
            f"({kl['ci95'][0]:.5f} to {kl['ci95'][1]:.5f}); top-1 {top['value']:.2%} ({top['ci95'][0]:.2%} to "
            f"{top['ci95'][1]:.2%}); perplexity ratio {row['perplexity']['ratio']:.4f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for row in measure(Path(name)):
            print(json.dumps({**row, **context(), "command": "scripts/prune_pocket.py --json"}) if args.json
                  else line(row), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
