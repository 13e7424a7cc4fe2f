"""Distilling: a smaller model learns to say what the model it was made of says, and becomes a folder of its own.

The teacher reads the text once: its final hidden states go to the disk, from which its frozen head makes its exact
logits again, at a fortieth of what the logits of a large vocabulary would take. A run that was killed is continued by
the same command, to the same bits.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nearfield.compress.distill.lesson import Lesson, Progress
from nearfield.compress.distill.network import Network
from nearfield.compress.distill.pair import Pair
from nearfield.compress.distill.plan import DistillOptions, DistillPlan
from nearfield.compress.folder import check_out, check_space, partial_of
from nearfield.compress.kept import Kept
from nearfield.compress.report import REPORT, add_section
from nearfield.core.errors import ConfigError
from nearfield.formats.checkpoint import Checkpoint
from nearfield.formats.shards import ShardWriter


def distill_folder(student: Path, teacher: Path, out: Path, options: DistillOptions, texts: Sequence[Path] | None, *,
                   progress: Progress = lambda standing: None) -> None:
    """Write to the new folder `out` the model in the folder `student`, taught by the one in the folder `teacher`.

    texts: files of UTF-8 text, or None for text that the teacher writes itself. What is trained, in fp32, and what
    AdamW remembers are in memory: 16 bytes a weight.
    Raises ModelError for models that do not go together or learn nothing, ConfigError for text that is too short,
    or where `out` cannot be written; what is finished is kept beside it.
    """
    check_out(out)
    pair = Pair.read(student, teacher)
    plan = DistillPlan.make(pair, options, texts)
    facts, partial = plan.facts(), partial_of(out)
    try:
        kept = Kept(partial, {**facts, "text": plan.digest(), "threads": torch.get_num_threads()})
        check_space(partial, plan.nbytes())
        pupil = Network.load(student, pair.student_spec, torch.float32)
        told = Lesson(plan, kept, progress).teach(pupil)
        whole = partial / "model"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        write_dense(student, whole, pupil.weights)
        add_section(whole / REPORT, "distill", {**facts, "text": plan.text_facts(), **told})
        whole.rename(out)
    except OSError as error:
        raise ConfigError(f"{error.filename or partial}: cannot be written ({error.strerror}); make room, and the same "
                          "command continues from the last checkpoint, or give another place") from None
    shutil.rmtree(partial, ignore_errors=True)


def write_dense(source: Path, folder: Path, weights: Mapping[str, Tensor]) -> None:
    checkpoint = Checkpoint(source)
    entries = {name: checkpoint.entry(name) for name in weights}
    with ShardWriter(folder, entries) as writer:
        for name, tensor in weights.items():
            writer.write(name, tensor.detach().to(entries[name].dtype))
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
