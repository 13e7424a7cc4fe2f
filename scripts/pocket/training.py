"""The training loop: batches from step numbers, AdamW and Muon, a cosine schedule, checkpoints."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from nearfield.compress.distill.train import optimizer_state, restore_optimizer
from nearfield.models.spec import ModelSpec
from pocket.evaluate import answer_weights
from pocket.mix import documents, rows
from pocket.model import Weights, forward
from pocket.template import ChatFormat

Progress = Callable[[int, float], None]
"""Called after each step with its number and its loss."""


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train. `batch` is tokens a step; `lengths` are row lengths and how often.

    `elsewhere` is the weight of the loss outside of answers. `warmup` is in steps, the rates are peaks.
    """

    steps: int
    seed: int = 0
    batch: int = 4096
    lengths: tuple[tuple[int, float], ...] = ((256, 0.68), (512, 0.22), (1024, 0.1))
    matrix_rate: float = 4e-3
    table_rate: float = 4e-3
    weight_decay: float = 0.1
    warmup: int = 60
    last_share: float = 0.02
    elsewhere: float = 0.1
    clip: float = 1.0


def batch(recipe: Recipe, step: int, tokenizer: Tokenizer, chat: ChatFormat) -> tuple[Tensor, Tensor]:
    """Ids [B, L+1] of a step and the weights [B, L] of their targets."""
    rng = Random(f"{recipe.seed}:step:{step}")
    lengths, shares = zip(*recipe.lengths, strict=True)
    length: int = rng.choices(lengths, shares)[0]
    texts = documents(rng, chat)
    ids = torch.tensor(rows(texts, lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
                            recipe.batch // length, length + 1))
    return ids, answer_weights(ids, tokenizer, recipe.elsewhere)


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean loss (nats) of targets [B, L] under logits [B, L, V], weighted by weights [B, L]."""
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def rate(recipe: Recipe, step: int) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then half a cosine."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    way = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.last_share + (1 - recipe.last_share) * 0.5 * (1 + math.cos(math.pi * way))


def optimizers(recipe: Recipe, weights: Weights) -> tuple[Optimizer, ...]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms (norms without decay)."""
    matrices = [w for name, w in weights.items() if w.dim() == 2 and ".layers." in name]
    table = [w for name, w in weights.items() if w.dim() == 2 and ".layers." not in name]
    norms = [w for w in weights.values() if w.dim() == 1]
    decayed = {"params": table, "weight_decay": recipe.weight_decay}
    return (Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW([decayed, {"params": norms, "weight_decay": 0.0}], lr=recipe.table_rate, betas=(0.9, 0.95)))


def train(recipe: Recipe, spec: ModelSpec, weights: Weights, tokenizer: Tokenizer, work: Path, *,
          resume: bool, progress: Progress, keep_every: int = 200) -> float:
    """Train `weights` in place; returns the seconds it took, those before a resumption included.

    Every `keep_every` steps the state goes to `work`, from where `resume` goes on.
    """
    for tensor in weights.values():
        tensor.requires_grad_()
    used, chat = optimizers(recipe, weights), ChatFormat()
    peaks = [[group["lr"] for group in each.param_groups] for each in used]
    first, before = restore(work, weights, used) if resume else (0, 0.0)
    started = time.monotonic() - before
    for step in range(first, recipe.steps):
        for each, peak in zip(used, peaks, strict=True):
            for group, highest in zip(each.param_groups, peak, strict=True):
                group["lr"] = highest * rate(recipe, step)
        ids, counts = batch(recipe, step, tokenizer, chat)
        loss = weighted_loss(forward(spec, weights, ids[:, :-1]), ids[:, 1:], counts)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(list(weights.values()), recipe.clip)
        for each in used:
            each.step()
            each.zero_grad()
        if (step + 1) % keep_every == 0:
            keep(work, weights, used, step + 1, time.monotonic() - started)
        progress(step, loss.item())
    return time.monotonic() - started


def keep(work: Path, weights: Weights, used: tuple[Optimizer, ...], done: int, seconds: float) -> None:
    """Write weights, the optimizers' state, steps done and seconds spent, as one safetensors file."""
    tensors = {f"weight.{name}": tensor.detach() for name, tensor in weights.items()}
    tensors |= {f"state.{i}.{name}": value.contiguous()
                for i, each in enumerate(used) for name, value in optimizer_state(each).items()}
    tensors["spent"] = torch.tensor([done, seconds], dtype=torch.float64)
    work.mkdir(parents=True, exist_ok=True)
    save_file(tensors, work / "checkpoint.tmp")
    (work / "checkpoint.tmp").replace(work / "checkpoint.safetensors")


def restore(work: Path, weights: Weights, used: tuple[Optimizer, ...]) -> tuple[int, float]:
    """Load what `keep` wrote; returns the steps done and the seconds they took: 0 without a checkpoint."""
    path = work / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0.0
    tensors = load_file(path)
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(tensors[f"weight.{name}"])
    for i, each in enumerate(used):
        place = f"state.{i}."
        restore_optimizer(each, {name.removeprefix(place): value for name, value in tensors.items()
                                 if name.startswith(place)})
    done, seconds = tensors["spent"].tolist()
    return int(done), seconds
