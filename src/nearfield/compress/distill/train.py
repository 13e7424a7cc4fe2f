"""The training loop: AdamW, warm-up and half a cosine, the best state by held-out loss, checkpoints.

The rows of a step depend on the seed and the step's number alone, so a run that was killed goes on from its last
checkpoint to the same bits.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from nearfield.compress.kept import Kept

EVALUATIONS, PATIENCE = 10, 3
"""Held-out losses in a course, each with a checkpoint; and how many rises in a row end it. A rise by itself is no sign:
at the highest rates a student that knows something already does worse for a while."""

_WARMUP, _LAST = 0.1, 0.02
_BETAS, _DECAY, _CLIP = (0.9, 0.95), 0.01, 1.0


class Task(Protocol):
    """What is learned from chunks of text."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors that learn."""
        ...

    def learn(self, chunks: Sequence[int]) -> float:
        """The mean loss of these chunks; its gradient is added to the weights'."""
        ...

    def held_out(self) -> float:
        """The mean loss of the chunks that are not learned from."""
        ...


@dataclass(frozen=True)
class Course:
    """How a task is learned: its name among what is kept, chunks to learn from, steps, chunks of a step, peak learning
    rate, seed."""

    name: str
    chunks: Sequence[int]
    steps: int
    batch: int
    learning_rate: float
    seed: int

    def share(self, step: int) -> float:
        """The share of the peak learning rate at a step: a linear warm-up, then half a cosine to a fiftieth."""
        warmup = max(1, round(_WARMUP * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        way = (step - warmup) / max(1, self.steps - warmup)
        return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * way))

    def order(self) -> list[list[int]]:
        """The chunks of each step: all of them in an order of chance, then all in another, as often as is needed."""
        generator = torch.Generator().manual_seed(self.seed)
        wanted = self.steps * self.batch
        rounds = [torch.randperm(len(self.chunks), generator=generator)
                  for _ in range(max(1, -(-wanted // len(self.chunks))))]
        picks = torch.cat(rounds)[:wanted].view(self.steps, self.batch).tolist()
        return [[self.chunks[pick] for pick in row] for row in picks]


@dataclass
class Outcome:
    """What a course has come to. history: steps done, and the held-out loss then; why it stopped before its end."""

    done: int
    history: list[tuple[int, float]]
    seconds: float = 0.0
    stopped: str | None = None

    @property
    def best(self) -> tuple[int, float]:
        """The first of the best."""
        return min(self.history, key=lambda point: point[1])

    @property
    def rising(self) -> bool:
        """Whether the held-out loss has risen so often in a row that more steps would only learn the text by heart."""
        last = [loss for _, loss in self.history[-PATIENCE - 1:]]
        return len(last) > PATIENCE and all(a < b for a, b in pairwise(last))

    def facts(self) -> dict[str, Any]:
        """What to tell of it."""
        return {"before": self.history[0][1], "after": self.best[1], "steps": self.done, "best_step": self.best[0],
                "by_step": self.history, "stopped": self.stopped, "seconds": round(self.seconds, 1)}


Watch = Callable[[int, float, float], None]
"""Called after each step with the steps done, the step's loss, and the last held-out one."""


def train(task: Task, course: Course, kept: Kept, watch: Watch) -> Outcome:
    """Learn, and leave the best weights in the task; what is kept of a course that ended is not learned again."""
    if course.name not in kept:
        outcome = _learn(task, course, kept, watch)
        kept.put(course.name, kept.tensors(_best(course)), asdict(outcome))
        for name in (_best(course), _checkpoint(course)):
            kept.drop(name)
    _fill(task.weights, kept.tensors(course.name))
    return _outcome(kept.facts(course.name))


def _learn(task: Task, course: Course, kept: Kept, watch: Watch) -> Outcome:
    weights, order = list(task.weights.values()), course.order()
    for tensor in weights:
        tensor.requires_grad_()
    optimizer = _optimizer(weights)
    outcome = _begun(task, optimizer, course, kept)
    start = time.monotonic() - outcome.seconds
    every = -(-course.steps // EVALUATIONS)
    while outcome.done < course.steps and outcome.stopped is None:
        for group in optimizer.param_groups:
            group["lr"] = course.learning_rate * course.share(outcome.done)
        loss = task.learn(order[outcome.done])
        norm = float(torch.nn.utils.clip_grad_norm_(weights, _CLIP))
        if not math.isfinite(loss + norm):
            outcome.stopped = f"the loss is not finite at step {outcome.done + 1}"
            break
        optimizer.step()
        optimizer.zero_grad()
        outcome.done += 1
        outcome.seconds = time.monotonic() - start
        if outcome.done % every == 0 or outcome.done == course.steps:
            _evaluate(task, optimizer, course, kept, outcome)
        watch(outcome.done, loss, outcome.history[-1][1])
    return outcome


def _optimizer(weights: Sequence[Tensor]) -> Optimizer:
    """AdamW, without decay of norms and biases; each step has its own rate."""
    matrices = {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": _DECAY}
    vectors = {"params": [weight for weight in weights if weight.dim() == 1], "weight_decay": 0.0}
    return AdamW([matrices, vectors], betas=_BETAS, fused=True)


def _begun(task: Task, optimizer: Optimizer, course: Course, kept: Kept) -> Outcome:
    """The course as it was left, or at its start."""
    if _checkpoint(course) not in kept:
        outcome = Outcome(0, [(0, task.held_out())])
        kept.put(_best(course), task.weights)
        return outcome
    tensors = kept.tensors(_checkpoint(course))
    _fill(task.weights, _below("weight", tensors))
    restore_optimizer(optimizer, _below("optimizer", tensors))
    return _outcome(kept.facts(_checkpoint(course)))


def _evaluate(task: Task, optimizer: Optimizer, course: Course, kept: Kept, outcome: Outcome) -> None:
    """Note the held-out loss; keep the state, and the best by itself.

    The best is kept first: a run that is killed between the two finds it again, of the same bits.
    """
    found = task.held_out()
    if not math.isfinite(found):
        outcome.stopped = f"the held-out loss is not finite at step {outcome.done}"
        return
    outcome.history.append((outcome.done, found))
    if outcome.best[0] == outcome.done:
        kept.put(_best(course), task.weights)
    if outcome.rising:
        outcome.stopped = f"the held-out loss has risen {PATIENCE} times in a row, up to step {outcome.done}"
    state = {f"optimizer.{name}": value for name, value in optimizer_state(optimizer).items()}
    kept.put(_checkpoint(course), {**{f"weight.{name}": w for name, w in task.weights.items()}, **state},
             asdict(outcome))


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers, by names for `restore_optimizer`."""
    return {f"{index}.{key}": value for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()}


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimizer of the same weights what `optimizer_state` told."""
    whole = optimizer.state_dict()
    for name, value in state.items():
        index, key = name.split(".")
        whole["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(whole)


def _fill(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(values[name])


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _outcome(facts: Any) -> Outcome:
    return Outcome(facts["done"], [(step, loss) for step, loss in facts["history"]],
                   facts["seconds"], facts["stopped"])


def _best(course: Course) -> str:
    return f"{course.name}-best"


def _checkpoint(course: Course) -> str:
    return f"{course.name}-checkpoint"
