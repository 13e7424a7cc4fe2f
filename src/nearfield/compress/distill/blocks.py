"""Each of a student's layers learns by itself first: from the teacher's hidden states before it, those that come after
the teacher's layers that it stands for (block-local distillation; Bercovich et al. 2024, Puzzle).

There is no head in it and no way back through other layers. States of two places of the model are on the disk at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from nearfield.compress.distill.chunks import Chunks
from nearfield.compress.distill.network import Network
from nearfield.compress.distill.tasks import LayerTask, through
from nearfield.compress.distill.train import Course, Watch, train
from nearfield.compress.kept import Kept
from nearfield.models.inventory import EMBED


@dataclass(frozen=True)
class Blocks:
    """The layers of a student, and the teacher's layers that each stands for, all of them in order.

    said: chunks of text with their `ids` [L], some of them `held` out.
    """

    student: Network
    teacher: Network
    spans: Sequence[range]
    said: Chunks
    held: Sequence[int]

    def learn(self, course: Course, kept: Kept, watch: Callable[[int], Watch]) -> list[dict[str, Any]]:
        """Every layer by `course`; what came of each. `watch` makes the one for a layer."""
        told = []
        given = Chunks(kept, "states-0", self.said.count, self.student.device)
        for i, span in enumerate(self.spans):
            wanted = Chunks(kept, f"states-{i + 1}", self.said.count, self.student.device)
            lesson = replace(course, name=f"layer-{i}", seed=course.seed + i)
            if lesson.name not in kept:
                if i == 0:
                    self._embed(given)
                self._go_through(given, wanted, span)
            task = LayerTask(self.student, i, given, wanted, self.held)
            if lesson.name not in kept and task.held_out() == 0:
                lesson = replace(lesson, steps=0)       # the teacher's own layer, which can only be spoilt
            outcome = train(task, lesson, kept, watch(i))
            told.append({"teacher_layers": [span[0], span[-1]], **outcome.facts()})
            given.drop()
            given = wanted
        given.drop()
        return told

    @torch.inference_mode()
    def _embed(self, made: Chunks) -> None:
        for part, chunks in made.parts():
            if part not in made:
                ids = self.said.rows("ids", chunks)
                made.put(part, {"states": functional.embedding(ids, self.teacher.weights[EMBED])})

    @torch.inference_mode()
    def _go_through(self, given: Chunks, made: Chunks, layers: range) -> None:
        for part, chunks in made.parts():
            if part not in made:
                made.put(part, {"states": through(self.teacher, layers, given.rows("states", chunks))})

