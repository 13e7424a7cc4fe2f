"""GPTQ beside rounding to nearest, and what int8 activations cost: a line of JSON for each folder made.

    python scripts/methods.py                               # a table
    python scripts/methods.py --json > bench/results/gptq.jsonl

The pocket model is calibrated on chats of its training's kind and judged on held-out ones. The model of the shared
data (--shared, $NEARFIELD_SHARED, or shared/data beside the checkout) is calibrated and judged on stories that it
tells itself, of other seeds. Figures are those of `nearfield evaluate`, and `kl_dense_activations`: the mean KL of the
same codes with activations that are not rounded (as fp32 weights, through the dense path).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from nearfield import LLM, SamplingParams
from nearfield.bench.divergence import band, figures
from nearfield.bench.fidelity import LENGTH, Served, divergence
from nearfield.compress.calibrated import quantize_calibrated
from nearfield.compress.folder import quantize_folder
from nearfield.compress.plan import Target
from nearfield.compress.quantize.choose import Method
from nearfield.compress.text import read_text
from nearfield.core.config import DType, EngineConfig
from nearfield.formats.compressed import decode, layout
from nearfield.formats.manifest import read_manifest
from nearfield.kernels.reference.quantized import dequantize
from nearfield.models.inventory import take_inventory
from nearfield.models.loader import CheckpointSource, pocket_folder, weight_bytes
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from nearfield.models.tokenizer import load_tokenizer
from pocket import stories
from pocket.evaluate import GRADED, questions
from pocket.mix import documents
from pocket.template import ChatFormat
from quality import ROOT, context

TOKENS = 16384
CANDIDATES: tuple[tuple[str, Method], ...] = (
    ("w4", "rtn"), ("w4", "gptq"), ("w4", "awq"), ("w4", "auto"), ("w8", "rtn"), ("w8", "gptq"))


@dataclass(frozen=True)
class Subject:
    """A model, the columns that share a scale in w4, and the texts to calibrate it on and to judge it by."""

    name: str
    folder: Path
    group: int
    calibration: Path
    text: Path


def pocket_subject(work: Path) -> Subject:
    """The pocket model: chats of its training's kind, and held-out exchanges."""
    folder, rng = pocket_folder(), Random("calibration")
    tokenizer, made = Tokenizer.from_file(str(folder / "tokenizer.json")), documents(rng, ChatFormat())
    (work / "chats.txt").write_text("".join(next(made) for _ in range(400)), "utf-8")
    asked = questions(tokenizer, seed=2, each=40, makers=(*GRADED, stories.story))
    Random(2).shuffle(asked)
    text = "".join(tokenizer.decode([*each.prompt, *each.answer], skip_special_tokens=False) for each in asked)
    (work / "held-out.txt").write_text(text, "utf-8")
    return Subject("pocket", folder, 64, work / "chats.txt", work / "held-out.txt")


def stories_subject(shared: Path, work: Path) -> Subject:
    """The stories model: what it tells itself."""
    folder = shared / "weights" / "tinystories-656k"
    llm = LLM(folder, kv_memory="64MiB")
    for name, first in (("told.txt", 0), ("told-later.txt", 1000)):
        told = [answer.text for seed in range(first, first + 200) for answer in llm.generate(
            [""], SamplingParams(max_tokens=400, temperature=1.0, seed=seed))]
        (work / name).write_text("\n\n".join(told), "utf-8")
    return Subject(folder.name, folder, 32, work / "told.txt", work / "told-later.txt")


def make(subject: Subject, out: Path, width: str, method: Method) -> None:
    """A quantised folder."""
    target = Target(width, subject.group)
    if method == "rtn":
        quantize_folder(subject.folder, out, target)
    else:
        quantize_calibrated(subject.folder, out, target, method, [subject.calibration])


def unpack(folder: Path, out: Path) -> Path:
    """The same model with its codes' meaning as fp32 weights."""
    config = Config.load(folder / "config.json")
    spec, manifest = read_spec(config), read_manifest(config.data, config.path)
    assert manifest is not None
    source, found = CheckpointSource(folder, torch.float32, tied=spec.tie_embeddings), take_inventory(spec)
    tensors = {name: source.get(name, (size,)) for name, size in found.vectors.items()}
    tensors |= {name: source.get(name, shape) for name, shape in found.tables.items()}
    for name, shape in ((name, shape) for parts in found.linears for name, shape in parts.items()):
        layer = name.removesuffix(".weight")
        scheme = manifest.scheme(layer)
        assert scheme is not None
        stored = {end: source.get_exact(f"{layer}.{end}", each.shape, each.dtypes)
                  for end, each in layout(layer, scheme, *shape).items()}
        tensors[name] = dequantize(decode(layer, scheme, shape, stored))
    out.mkdir()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    dense = {key: value for key, value in config.data.items() if key != "quantization_config"}
    (out / "config.json").write_text(json.dumps(dense), "utf-8")
    return out


def measure(subject: Subject, work: Path) -> Iterator[dict[str, Any]]:
    """A row for each folder."""
    length = min(LENGTH, read_spec(Config.load(subject.folder / "config.json")).max_positions)
    chunks = read_text([subject.text], load_tokenizer(subject.folder), -(-TOKENS // (length // 2)), length, 2).chunks
    base = Served.open(subject.folder, EngineConfig.dtype, length)

    def found(folder: Path, dtype: DType) -> dict[str, Any]:
        candidate = Served.open(folder, dtype, length)
        return {**figures(divergence(base, candidate, chunks, lambda: None)), "backend": candidate.backend}

    for width, method in CANDIDATES:
        made = work / f"{subject.name}-{width}-{method}"
        make(subject, made, width, method)
        told = found(made, EngineConfig.dtype)
        yield {"kind": "method", "model": subject.name, "format": width, "method": method, "text": subject.text.name,
               **({"group": subject.group} if width == "w4" else {}), **told, "band": band(told["kl"]["ci95"][1]),
               "bytes": weight_bytes(made),
               "kl_dense_activations": found(unpack(made, work / f"{made.name}-dense"), "fp32")["kl"]}


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    kl, top = row["kl"], row["top1_agreement"]
    return (f"{row['model']:<17}{row['format']} {row['method']:<5} KL {kl['mean']:.5f} ({kl['ci95'][0]:.5f} to "
            f"{kl['ci95'][1]:.5f}), {row['band']}; top-1 {top['value']:.2%}; perplexity ratio "
            f"{row['perplexity']['ratio']:.4f}; KL with dense activations {row['kl_dense_activations']['mean']:.5f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data",
                        help="the folder of shared data (default: %(default)s)")
    args = parser.parse_args()
    if not args.shared.is_dir():
        print(f"methods: the shared data is not at {args.shared}; give its folder with --shared", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for subject in (stories_subject(args.shared, work), pocket_subject(work)):
            for row in measure(subject, work):
                print(json.dumps({**row, **context(), "command": "scripts/methods.py --json"}) if args.json
                      else line(row), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
