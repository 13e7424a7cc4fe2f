"""How far w8 and w4 move a model from bf16: divergence and agreement on text, a line for each way to store it.

    python scripts/quality.py                                            # a table
    python scripts/quality.py --json > bench/results/quality-rtn.jsonl   # one line of JSON each

The pocket model reads exchanges of the kind it was trained on and never saw. The models of the shared data
read that data's plain text, which is not what they were trained on: --shared, $NEARFIELD_SHARED, or shared/data
beside the checkout. A text is cut into chunks; the first half of a chunk is context, the second is scored.
Both models see the same tokens; the candidate is computed by the kernels that serve. fp32 is the floor: what
rounding to bf16 alone does.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from convert_llama2c import convert
from nearfield import LLM
from nearfield.cache.store import DenseKV
from nearfield.core.errors import NearfieldError
from nearfield.engine.batch import whole_inputs
from nearfield.kernels.ops import KVShape
from nearfield.kernels.select import TORCH_DTYPES
from nearfield.models.loader import pocket_folder
from pocket import stories
from pocket.evaluate import GRADED, questions

ROOT = Path(__file__).resolve().parent.parent
CANDIDATES: tuple[dict[str, Any], ...] = (
    {"dtype": "fp32"}, {"weights": "w8"}, *({"weights": "w4", "group": group} for group in (32, 64, 128)))
_DRAWS = 2000


@dataclass(frozen=True)
class Subject:
    """A model, and rows of ids [count, length] that it is given."""

    name: str
    folder: Path
    text: str
    ids: Tensor


@dataclass(frozen=True)
class Quality:
    """Over `tokens` places: KL(bf16 || candidate) in nats, its mean with a 95 % interval, 99th percentile and
    largest; the share of places where both hold the same token likeliest; perplexities of the true tokens.

    The interval is a bootstrap over chunks, since the tokens of a chunk depend on each other.
    """

    tokens: int
    kl_mean: float
    kl_low: float
    kl_high: float
    kl_p99: float
    kl_max: float
    top1: float
    perplexity: float
    perplexity_bf16: float


def compare(base: Tensor, candidate: Tensor, targets: Tensor) -> Tensor:
    """For logits [T, V] of both and the true tokens [T]: KL, agreement, and both log-probabilities, [4, T] fp64."""
    p, q = base.double().log_softmax(-1), candidate.double().log_softmax(-1)
    true = targets[:, None]
    return torch.stack([(p.exp() * (p - q)).sum(-1), (base.argmax(-1) == candidate.argmax(-1)).double(),
                        p.gather(1, true)[:, 0], q.gather(1, true)[:, 0]])


def summarise(found: Tensor) -> Quality:
    """The figures of `compare` for chunks of one length, [chunks, 4, T]."""
    kl, same, base, candidate = found.unbind(1)
    means = kl.mean(1)
    picks = torch.randint(len(means), (_DRAWS, len(means)), generator=torch.Generator().manual_seed(0))
    low, high = means[picks].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    figures = (kl.mean(), low, high, kl.flatten().quantile(0.99), kl.max(), same.mean(),
               (-candidate.mean()).exp(), (-base.mean()).exp())
    return Quality(kl.numel(), *(float(f"{float(x):.5g}") for x in figures))


def measure(subject: Subject) -> Iterator[dict[str, Any]]:
    """A row for each candidate, or one that says why the model has none."""
    base = _load(subject, {})
    for options in CANDIDATES:
        row = {"kind": "quality", "model": subject.name, "text": subject.text, "weights": "dense", "method": "rtn",
               **options}
        try:
            candidate = _load(subject, options)
        except NearfieldError as error:
            yield {**row, "skipped": str(error)}
            continue
        half = subject.ids.shape[1] // 2
        found = [compare(_logits(base, ids)[half:], _logits(candidate, ids)[half:], ids[half + 1:])
                 for ids in subject.ids]
        yield {**row, "backend": candidate.loaded.ops.backend, "chunks": len(found), "chunk": subject.ids.shape[1] - 1,
               **asdict(summarise(torch.stack(found)))}


def _load(subject: Subject, options: dict[str, Any]) -> LLM:
    return LLM(subject.folder, tokenizer=None, kv_memory="16MiB", **options)


@torch.inference_mode()
def _logits(llm: LLM, ids: Tensor) -> Tensor:
    """The logits [T, V] after each of ids[:-1], computed as they are when serving."""
    model, config = llm.loaded.model, llm.loaded.engine.config
    spec, page = model.spec, config.page_size
    shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, page)
    dtype = TORCH_DTYPES[config.dtype]
    kv = DenseKV(llm.loaded.ops, shape, (len(ids) // page + 2) * shape.page_bytes(dtype), dtype)
    return model.logits(model.hidden(whole_inputs(ids[:-1].tolist(), kv, page)))


def pocket_subject(chunks: int, length: int) -> Subject:
    """The pocket model, and held-out exchanges and stories in an order of chance."""
    folder = pocket_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    asked = questions(tokenizer, seed=1, each=chunks, makers=(*GRADED, stories.story))
    Random(1).shuffle(asked)
    ids = [token for each in asked for token in (*each.prompt, *each.answer)]
    return Subject("pocket", folder, "held-out exchanges", _rows(ids, chunks, length))


def shared_subjects(shared: Path, work: Path, chunks: int, length: int) -> Iterator[Subject]:
    """The models of the shared data; what is not a folder yet is converted in `work`."""
    stories260k = shared / "weights" / "stories260K"
    convert(stories260k / "stories260K.bin", stories260k / "tok512.model", work / "stories260K")
    for folder in (work / "stories260K", shared / "weights" / "tinystories-656k"):
        llm = LLM(folder, kv_memory="16MiB")
        for text in sorted((shared / "text").glob("*.txt")):
            head = text.read_text("utf-8")[:chunks * length * 6]
            yield Subject(folder.name, folder, text.name, _rows(llm.encode(head), chunks, length))


def _rows(ids: Sequence[int], chunks: int, length: int) -> Tensor:
    """[chunks, length + 1]: the target of a chunk's last place is one more token."""
    wanted = chunks * (length + 1)
    if len(ids) < wanted:
        raise ValueError(f"the text has {len(ids)} tokens, {wanted} are needed")
    return torch.tensor(ids[:wanted]).view(chunks, length + 1)


def context() -> dict[str, str]:
    """What a result is to be read with: the commit, the day, the processor, the command."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, check=True, capture_output=True,
                            text=True).stdout.strip()
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return {"commit": commit, "day": date.today().isoformat(), "processor": next(iter(names), platform.machine()),
            "command": "scripts/quality.py --json"}


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    stored = f"{row['weights']} g{row['group']}" if "group" in row else row.get("dtype", row["weights"])
    place = f"{row['model']:<17}{row['text']:<22}{stored:<9}"
    if "skipped" in row:
        return f"{place}{row['skipped']}"
    return (f"{place}KL {row['kl_mean']:.5f} ({row['kl_low']:.5f} to {row['kl_high']:.5f}), 99 % {row['kl_p99']:.4f}  "
            f"top-1 {row['top1']:.2%}  perplexity {row['perplexity_bf16']:.3f} -> {row['perplexity']:.3f}")


def main() -> int:
    named = os.environ.get("NEARFIELD_SHARED")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    parser.add_argument("--shared", type=Path, default=Path(named) if named else ROOT.parent / "shared" / "data",
                        help="the folder of shared data (default: %(default)s)")
    args = parser.parse_args()
    if not args.shared.is_dir():
        print(f"quality: the shared data is not at {args.shared}; give its folder with --shared", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as work:
        subjects = [pocket_subject(32, 1024), *shared_subjects(args.shared, Path(work), 64, 511)]
        for subject in subjects:
            for row in measure(subject):
                print(json.dumps({**row, **context()}) if args.json else line(row), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
