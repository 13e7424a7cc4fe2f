"""What the pocket model loses with a third of its layers, and what it gets back from learning from the whole one.

    python scripts/distill_pocket.py                                         # a table; half an hour
    python scripts/distill_pocket.py --json >> bench/results/distill.jsonl   # one line of JSON

It learns from exchanges of the kind that made the pocket model, and is measured on held-out ones that have no passage
in common with those: agreement as `nearfield evaluate` has it, and the questions of the model's card.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer

from nearfield.bench.fidelity import run_fidelity
from nearfield.compress.distill.folder import distill_folder
from nearfield.compress.distill.lesson import Standing
from nearfield.compress.distill.plan import DistillOptions
from nearfield.compress.prune.folder import prune_folder
from nearfield.compress.prune.options import PruneOptions
from nearfield.compress.report import REPORT, read_report
from nearfield.compress.text import Text, passages, unpack_passages
from nearfield.models.loader import pocket_folder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from nearfield.models.tokenizer import load_tokenizer
from pocket import stories
from pocket.evaluate import GRADED, Grade, grade, grade_stories, questions
from pocket.mix import documents, full_messages
from pocket.model import forward, load_weights
from pocket.template import ChatFormat
from quality import context

SCORED = 16384
_TOKENS_OF_A_TEXT = 100
"""Fewer than a training text has, so that there is enough of it."""


@dataclass(frozen=True)
class Work:
    """Where a run's files are."""

    folder: Path

    @property
    def training(self) -> Path:
        return self.folder / "training.txt"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.txt"

    @property
    def held_out(self) -> Path:
        return self.folder / "held-out.txt"


def write_training(work: Work, tokens: int) -> None:
    """Texts of the generator's training part, of a seed that the pocket model has not seen."""
    texts = list(islice(documents(Random("distill"), ChatFormat()), tokens // _TOKENS_OF_A_TEXT))
    work.training.write_text("".join(texts))
    work.calibration.write_text("".join(texts[:1000]))


def write_held_out(work: Work, made: Path) -> None:
    """Held-out exchanges without those that share a passage with what `made` has learned from."""
    told = read_report(made / REPORT)
    known = unpack_passages(told["distill"]["text"]["passages"]) | unpack_passages(
        told["prune"]["calibration"]["passages"])
    tokenizer = load_tokenizer(made)

    def unknown(text: str) -> bool:
        ids = torch.tensor([tokenizer.encode(text, add_special=False)])
        return known.isdisjoint(passages(Text(ids, ()), tokenizer))

    work.held_out.write_text("".join(islice(filter(unknown, held_out_texts()), 2000)))


def held_out_texts() -> Iterator[str]:
    """Exchanges of every kind in turn, of the part that training never sees."""
    rng, chat = Random("distill:held"), ChatFormat()
    while True:
        for make in (*GRADED, stories.story):
            exchange = make(rng, True)
            yield chat.render(full_messages(exchange), exchange.tools)


def fidelity(candidate: Path, work: Work) -> dict[str, Any]:
    """Agreement and KL with the pocket model, each with its interval."""
    found = run_fidelity(pocket_folder(), candidate, [work.held_out], SCORED, _say, lambda done, total: None)
    return {"top1": found["top1_agreement"], "kl": {key: found["kl"][key] for key in ("mean", "ci95")},
            "perplexity_ratio": found["perplexity"]["ratio"], "tokens": found["tokens"]}


def answers(folder: Path) -> dict[str, Grade]:
    """The card's grades: 150 held-out questions of each sort, and 60 stories."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = partial(forward, read_spec(Config.load(folder / "config.json")), load_weights(folder))
    return {**grade(model, questions(tokenizer, 0, 150)), "stories": grade_stories(model, tokenizer, 0, 60)}


def right(grades: dict[str, Grade]) -> float:
    """The share of all questions that were answered right."""
    asked = sum(each.count for each in grades.values())
    return round(sum(each.count * each.accuracy for each in grades.values()) / asked, 5)


def measure(work: Work, tokens: int, *, block_local: bool) -> dict[str, Any]:
    """Prune, distil, and compare with the pocket model, before and after."""
    pocket, pruned, made = pocket_folder(), work.folder / "pruned", work.folder / "distilled"
    write_training(work, tokens)
    prune_folder(pocket, pruned, PruneOptions(layers=-2), [work.calibration])
    start = time.monotonic(), time.process_time()
    distill_folder(pruned, pocket, made, DistillOptions(tokens, block_local), [work.training], progress=_show())
    spent = {"seconds": round(time.monotonic() - start[0]), "cpu_seconds": round(time.process_time() - start[1])}
    write_held_out(work, made)
    agreement = {name: fidelity(folder, work) for name, folder in (("before", pruned), ("after", made))}
    lost, still = (1 - agreement[name]["top1"]["value"] for name in ("before", "after"))
    graded = {name: answers(folder) for name, folder in (("parent", pocket), ("before", pruned), ("after", made))}
    return {"kind": "distill", "model": "pocket", "layers": {"parent": 6, "student": 4}, "tokens": tokens,
            "block_local": block_local, "dropped": read_report(made / REPORT)["prune"]["layers"]["dropped"],
            "threads": torch.get_num_threads(), **spent, **agreement, "regained": round((lost - still) / lost, 4),
            "right": {name: right(grades) for name, grades in graded.items()},
            "right_by_kind": {kind: {name: round(grades[kind].accuracy, 4) for name, grades in graded.items()}
                              for kind in graded["parent"]},
            "held_out_kl": read_report(made / REPORT)["distill"]["held_out_kl"], **context(),
            "command": " ".join(["python", *sys.argv])}


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{result['tokens']} tokens in {result['seconds']} s ({result['cpu_seconds']} s of CPU)"]
    lines += [f"{name:<7} same top token {result[name]['top1']['value']:.2%} "
              f"({result[name]['top1']['ci95'][0]:.2%} to {result[name]['top1']['ci95'][1]:.2%}), "
              f"KL {result[name]['kl']['mean']:.4f}, right answers {result['right'][name]:.1%}"
              for name in ("before", "after")]
    lines.append(f"of what was lost {result['regained']:.1%} regained; the parent's right answers "
                 f"{result['right']['parent']:.1%}")
    lines += [f"  {kind:<14}" + "  ".join(f"{name} {share:.1%}" for name, share in shares.items())
              for kind, shares in result["right_by_kind"].items()]
    return "\n".join(lines)


def _say(line: str) -> None:
    print(f"distill_pocket: {line}", file=sys.stderr, flush=True)


def _show() -> Any:
    """Tells a line a minute."""
    last = 0.0

    def show(standing: Standing) -> None:
        nonlocal last
        if time.monotonic() - last > 60:
            last = time.monotonic()
            _say(f"{standing.stage}: {standing.done} of {standing.total} tokens, loss {standing.loss}, held out "
                 f"{standing.held_out}")
    return show


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a line of JSON")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="tokens to learn from (default: %(default)s)")
    parser.add_argument("--block-local", action="store_true", help="first each layer by itself")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Work(Path(folder)), args.tokens, block_local=args.block_local)
    print(json.dumps(result) if args.json else table(result), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
