"""The fidelity report: how far a made model is from the one it was made of, measured as it will be served.

Both read the same chunks of text in lock-step, through the kernels that serve; the first half of a chunk is context,
the second is scored. No logits are stored, so none are rounded. A row for the base in fp32 against the base tells
what rounding alone does. Text that the made model was calibrated or trained on would flatter it and is refused.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfield.bench.divergence import band, compare, figures, rounded
from nearfield.bench.footprint import side_by_side
from nearfield.bench.workload import Report
from nearfield.cache.store import DenseKV
from nearfield.compress.report import REPORT, passages_in, read_report, versions
from nearfield.compress.text import Text, overlap, passages, read_text, unpack_passages
from nearfield.core.config import DType, EngineConfig
from nearfield.core.errors import ConfigError, ModelError
from nearfield.engine.batch import whole_inputs
from nearfield.kernels import select
from nearfield.kernels.ops import KVShape
from nearfield.models.decoder import Decoder
from nearfield.models.loader import choose_storage, load_decoder
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config
from nearfield.models.tokenizer import Tokenizer, load_tokenizer

Progress = Callable[[int, int], None]

LENGTH, FEWEST = 1024, 4096
"""Tokens of a chunk, and scored tokens below which the intervals mean little."""

OVERLAP = 0.05
"""The share of a text's passages that may be in the calibration text: texts of one kind have some in common."""

_FEW = 2
"""Chunks below which there is no interval."""

_FLOOR = 4
"""One chunk in so many is enough for the noise floor."""

_ROWS = 64
"""Places whose logits exist at once: they are several V doubles each."""

_BINS = 32
"""Places along the scored half of a chunk that a plot has."""


@dataclass(frozen=True)
class Served:
    """A model as it is served, and a cache for one chunk."""

    model: Decoder
    kv: DenseKV
    backend: str

    @classmethod
    def open(cls, folder: Path, dtype: DType, length: int) -> "Served":
        """Load the model in `folder` for texts of `length` tokens."""
        config = Config.load(folder / "config.json")
        spec, storage = read_spec(config), choose_storage(config)
        ops = select.build(dtype, storage.names(spec))
        shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, EngineConfig.page_size)
        kv = DenseKV(ops, shape, (length // EngineConfig.page_size + 2) * shape.page_bytes(select.TORCH_DTYPES[dtype]),
                     select.TORCH_DTYPES[dtype])
        return cls(load_decoder(folder, spec, ops, dtype, length, storage=storage), kv, ops.backend)

    def hidden(self, ids: Tensor) -> Tensor:
        """The final hidden states [T, D] of a text."""
        return self.model.hidden(whole_inputs(ids.tolist(), self.kv, EngineConfig.page_size))


@torch.inference_mode()
def divergence(base: Served, candidate: Served, chunks: Tensor, progress: Callable[[], object]) -> Tensor:
    """What `compare` finds in the second half of each of chunks [C, L]: [C, 4, L / 2]. `progress`: after each."""
    half, found = chunks.shape[1] // 2, []
    for ids in chunks:
        states = [served.hidden(ids[:-1])[half - 1:] for served in (base, candidate)]
        targets = ids[half:]
        found.append(torch.cat([
            compare(base.model.logits(states[0][at:at + _ROWS]), candidate.model.logits(states[1][at:at + _ROWS]),
                    targets[at:at + _ROWS]) for at in range(0, len(targets), _ROWS)], dim=1))
        progress()
    return torch.stack(found)


def run_fidelity(base: Path, candidate: Path, texts: Sequence[Path], tokens: int, report: Report,
                 progress: Progress) -> dict[str, Any]:
    """Measure, and return the document that `nearfield evaluate --json` prints, and that report.json keeps.

    `progress`: chunks read, and all.
    Raises ModelError for models that cannot be compared, ConfigError for text that is too short or was looked at.
    """
    text = _text(base, candidate, texts, tokens)
    length = text.chunks.shape[1]
    scored = text.chunks.numel() // 2
    if scored < FEWEST:
        report(f"{scored} tokens are scored; below {FEWEST} the intervals say little: give more text")
    reference = Served.open(base, EngineConfig.dtype, length)
    made = Served.open(candidate, EngineConfig.dtype, length)
    few = text.chunks[:max(_FEW, len(text.chunks) // _FLOOR)]
    steps, total = itertools.count(1), len(text.chunks) + len(few)

    def read() -> None:
        progress(next(steps), total)

    found = divergence(reference, made, text.chunks, read)
    backend = made.backend
    del made
    floor = divergence(reference, Served.open(base, "fp32", length), few, read)
    del reference
    report("speed and memory, each model in a process of its own")
    sizes = dict(zip(("base", "candidate"), map(asdict, side_by_side(base, candidate)), strict=True))
    told = figures(found)
    return {"kind": "fidelity", **told, "bytes": {name: size.pop("bytes") for name, size in sizes.items()},
            "band": band(told["kl"]["ci95"][1]), "noise_floor": figures(floor), "footprint": sizes,
            "kl_by_position": _by_position(found), "kl_shares": _shares(found),
            "models": {"base": base.resolve().name, "candidate": candidate.resolve().name},
            "text": {"sha256": dict(text.hashes), "chunks": len(text.chunks), "chunk": length},
            "tokenizer_sha256": _tokenizer_digest(base), "backend": backend, "versions": versions()}


def _text(base: Path, candidate: Path, texts: Sequence[Path], tokens: int) -> Text:
    """The chunks to read, which both models' tokenizers cut alike and calibration has not seen."""
    specs = [read_spec(Config.load(folder / "config.json")) for folder in (base, candidate)]
    if specs[0].vocab_size != specs[1].vocab_size:
        raise ModelError(f"{candidate}: has a vocabulary of {specs[1].vocab_size}, {base} one of "
                         f"{specs[0].vocab_size}; give a model and one that was made of it")
    length = min(LENGTH, *(spec.max_positions for spec in specs))
    tokenizer = load_tokenizer(base)
    count = _chunks(tokens, length)
    text = read_text(texts, tokenizer, count, length, least=_FEW)
    if _tokenizer_digest(base) != _tokenizer_digest(candidate):
        other = read_text(texts, load_tokenizer(candidate), count, length, least=_FEW)
        if not torch.equal(text.chunks, other.chunks):
            raise ModelError(f"{candidate}: its tokenizer cuts the text otherwise than that of {base}; give a model "
                             "and one that was made of it")
    _check_unseen(text, tokenizer, texts, _made_by(candidate), f"{candidate} was made by")
    return text


def check_text(base: Path, texts: Sequence[Path], tokens: int, seen: set[int]) -> None:
    """Raises ConfigError for files that cannot be read, or cannot judge what will be made of `base`: too short, or of
    the passages `seen` in its making."""
    spec, tokenizer = read_spec(Config.load(base / "config.json")), load_tokenizer(base)
    length = min(LENGTH, spec.max_positions)
    text = read_text(texts, tokenizer, _chunks(tokens, length), length, least=_FEW)
    _check_unseen(text, tokenizer, texts, seen | _made_by(base), "the stages read")


def _chunks(tokens: int, length: int) -> int:
    """Chunks of which so many tokens are scored: the second half of each."""
    return max(_FEW, -(-tokens // (length // 2)))


def _check_unseen(text: Text, tokenizer: Tokenizer, files: Sequence[Path], seen: set[int], by: str) -> None:
    share = overlap(passages(text, tokenizer), seen)
    if share > OVERLAP:
        raise ConfigError(f"{', '.join(map(str, files))}: {share:.0%} of its passages are in the text that {by}, which "
                          "would flatter it; give other text")


def _made_by(candidate: Path) -> set[int]:
    """The passages of every text that the candidate was made by, as its report has them."""
    found: set[int] = set()
    for section in read_report(candidate / REPORT).values():
        for packed in passages_in(section):
            with suppress(TypeError, ValueError):       # a report of another's hand
                found |= unpack_passages(packed)
    return found


def _by_position(found: Tensor) -> list[float]:
    """The mean KL of neighbouring places, from the first scored to the last."""
    return [rounded(part.mean()) for part in found[:, 0].mean(0).tensor_split(min(_BINS, found.shape[2]))]


def _shares(found: Tensor) -> list[float]:
    """The KL that 0, 1, ... 100 % of the tokens are below."""
    ordered = found[:, 0].flatten().sort().values
    return [rounded(ordered[round(percent / 100 * (len(ordered) - 1))]) for percent in range(101)]


def _tokenizer_digest(folder: Path) -> str | None:
    path = next((folder / name for name in ("tokenizer.json", "vocab.json", "tokenizer.model")
                 if (folder / name).exists()), None)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
