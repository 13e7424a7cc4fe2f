"""The stages of a distillation: the teacher reads or writes the text, each layer learns by itself, all of them learn.

Each stage leaves what it made on the disk and is not done again when the run is continued.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nearfield.compress.distill.blocks import Blocks
from nearfield.compress.distill.chunks import Chunks
from nearfield.compress.distill.network import DTYPE, Network
from nearfield.compress.distill.plan import DistillPlan
from nearfield.compress.distill.tasks import AT_ONCE, WholeTask
from nearfield.compress.distill.train import Course, Watch, train
from nearfield.compress.distill.written import write_chunks
from nearfield.compress.kept import Kept
from nearfield.core.errors import ModelError
from nearfield.layers.attention import dense_inputs
from nearfield.models.inventory import EMBED, HEAD


@dataclass(frozen=True)
class Standing:
    """How far a run is: what it does now, tokens of it done, and all; the loss and the last held-out loss."""

    stage: str
    done: int
    total: int
    loss: float | None = None
    held_out: float | None = None


Progress = Callable[[Standing], None]


@dataclass(frozen=True)
class Lesson:
    """A plan, where what is finished of it is kept, and who is told."""

    plan: DistillPlan
    kept: Kept
    progress: Progress

    def teach(self, student: Network) -> dict[str, Any]:
        """Leave what was learned in the student's weights; returns what to tell of it. Raises ModelError, OSError."""
        plan, options = self.plan, self.plan.options
        teacher = Network.load(plan.pair.teacher, DTYPE, student.device)
        said = self._listen(teacher)
        head = teacher.weights[EMBED if teacher.spec.tie_embeddings else HEAD]
        task = WholeTask(student, head, said, plan.held)
        course = Course("whole", plan.learned, plan.steps, options.batch, options.learning_rate, options.seed)
        told: dict[str, Any] = {}
        before = self._before(task)
        if options.block_local:
            told["blocks"] = Blocks(student, teacher, plan.spans, said, plan.held).learn(
                course, self.kept, lambda i: self._watch(f"layer {i + 1} of {len(plan.spans)}"))
        del teacher
        outcome = train(task, course, self.kept, self._watch("all layers"))
        if not outcome.best[1] < before:
            self.kept.clear()       # the same command would find this end of it
            raise ModelError(f"{plan.pair.student.checkpoint.folder}: has learned nothing in {outcome.done} steps "
                             f"({outcome.stopped or 'no held-out loss was below the first'}); give a lower "
                             "--learning-rate, or more text; nothing is left of it")
        spent = said.seconds() + sum(block["seconds"] for block in told.get("blocks", ())) + outcome.seconds
        return {**told, "held_out_kl": {**outcome.facts(), "before": before}, "seconds": round(spent, 1)}

    @torch.inference_mode()
    def _listen(self, teacher: Network) -> Chunks:
        """What the teacher says of every chunk: `ids` [L], and its final hidden states `hidden` [L, D]."""
        plan, made = self.plan, Chunks(self.kept, "said", self.plan.count, teacher.device)
        model = teacher.decoder(plan.length)
        for part, chunks in made.parts():
            self.progress(Standing("teacher", chunks.start * plan.length, plan.count * plan.length))
            if part in made:
                continue
            start = time.monotonic()
            ids = self._text(teacher, chunks).to(teacher.device)
            hidden = [model.hidden(dense_inputs(rows)).view(*rows.shape, -1) for rows in torch.split(ids, AT_ONCE)]
            made.put(part, {"ids": ids, "hidden": torch.cat(hidden)}, time.monotonic() - start)
        return made

    def _text(self, teacher: Network, chunks: range) -> Tensor:
        plan = self.plan
        if plan.text is not None:
            return plan.text.chunks[chunks.start:chunks.stop]
        return write_chunks(teacher, plan.opening, chunks, plan.length, plan.options.seed)

    def _before(self, task: WholeTask) -> float:
        """The held-out loss of the student as it came."""
        if "before" not in self.kept:
            self.kept.put("before", {}, task.held_out())
        return float(self.kept.facts("before"))

    def _watch(self, stage: str) -> Watch:
        step = self.plan.options.batch * self.plan.length
        total = self.plan.steps * step
        return lambda done, loss, held_out: self.progress(Standing(stage, done * step, total, loss, held_out))
