"""Distilling: a smaller model learns to say what the model it was made of says, and becomes a folder of its own.

The teacher reads the text once: its final hidden states go to the disk, from which its frozen head makes its exact
logits again, at a fortieth of what the logits of a large vocabulary would take. A run that was killed is continued by
the same command, to the same bits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nearfield.compress.dense_folder import write_dense
from nearfield.compress.device import computing_on, open_device
from nearfield.compress.distill.lesson import Lesson, Progress
from nearfield.compress.distill.network import Network
from nearfield.compress.distill.pair import Pair
from nearfield.compress.distill.plan import DistillOptions, DistillPlan
from nearfield.compress.kept import Kept
from nearfield.compress.parent import Parent
from nearfield.compress.place import check_out, check_space, empty_model, made_in_steps
from nearfield.compress.report import REPORT, add_section


def distill_folder(student: Path, teacher: Path, out: Path, options: DistillOptions, texts: Sequence[Path] | None, *,
                   device: str = "cpu", progress: Progress = lambda standing: None) -> None:
    """Write to the new folder `out` the model in the folder `student`, taught by the one in the folder `teacher`.

    texts: files of UTF-8 text, or None for text that the teacher writes itself. device: "cpu" or "cuda", of the
    computation. What is trained, in fp32, and what AdamW remembers are in its memory: 16 bytes a weight.
    Raises ModelError for models that do not go together or learn nothing, ConfigError for text that is too short,
    or where `out` cannot be written; what is finished is kept beside it.
    """
    check_out(out, student, teacher, *(texts or ()))
    place = open_device(device)
    plan = DistillPlan.make(Pair.read(student, teacher), options, texts)
    facts = {**plan.facts(), "device": device}
    run = {"command": "distill", **facts, "text": plan.digest(), "threads": torch.get_num_threads()}
    with computing_on(place), made_in_steps(out, run) as partial:
        kept = Kept(partial / "lesson")
        check_space(partial, plan.nbytes() - kept.nbytes())
        pupil = Network.load(plan.pair.student, torch.float32, place)
        told = Lesson(plan, kept, progress).teach(pupil)
        folder = empty_model(partial)
        _write(plan.pair.student, folder, pupil.weights)
        add_section(folder / REPORT, "distill", {**facts, "text": plan.text_facts(), **told})


def _write(parent: Parent, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Each weight as the student had it stored."""
    entries = {new: parent.checkpoint.entry(name) for name, new in parent.names.items()}
    write_dense(parent.checkpoint.folder, folder, parent.config.data, entries,
                lambda name: weights[name].detach().to("cpu", entries[name].dtype))
