"""Writing a model again with its matrices as codes: a standard folder (compressed-tensors) from a dense one.

One tensor is in memory at a time, and the folder gets its name when it is whole (place.py). Norms stay dense, and
embeddings and head where the plan says so: not every version of vLLM reads them otherwise, and here they become int8
at load.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfield.compress.finite import check_codable
from nearfield.compress.place import check_out, check_space, made_whole
from nearfield.compress.plan import Plan, Target, make_plan, packer, stored_name
from nearfield.compress.report import REPORT, add_section, run_facts
from nearfield.formats.checkpoint import PICKLES, Entry
from nearfield.formats.compressed import encode
from nearfield.formats.shards import SHARD_BYTES, ShardWriter

Progress = Callable[[int, int], None]
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin.index.json", ".gguf", ".onnx", ".h5", ".msgpack", *PICKLES)
_OWN = ("config.json", "report.html")
"""Files that are not the parent's to give: one is written anew, the other is of the parent's measurements."""


def quantize_folder(source: Path, out: Path, target: Target, *, shard_bytes: int = SHARD_BYTES,
                    progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source` to the new folder `out`, its weights rounded to nearest, each scale
    searched for the least squared error (reference/rounding.py). `progress`: tensors done, and all.

    Raises ModelError for a model that cannot be quantised so, ConfigError where `out` cannot be written.
    """
    check_out(out, source)
    plan, start = make_plan(source, target), time.monotonic()
    with made_whole(out) as folder:
        check_space(folder, sum(entry.nbytes for entry in plan.entries().values()))
        write_model(plan, folder, lambda name: rounded(plan, name), shard_bytes, progress)
        add_section(folder / REPORT, "quantize", {
            **run_facts(plan, {**target.recipe, "method": "rtn"}), "seconds": round(time.monotonic() - start, 1)})


def write_model(plan: Plan, folder: Path, made: Callable[[str], Mapping[str, Tensor]], shard_bytes: int,
                progress: Progress = lambda done, total: None) -> None:
    """Write all files of the model. `made`: what is stored, by the names to write, of what the parent calls so."""
    def tensors() -> Iterator[tuple[str, Tensor]]:
        for done, name in enumerate(plan.names):
            progress(done, len(plan.names))
            yield from made(name).items()
        progress(len(plan.names), len(plan.names))

    write_files(folder, plan.described(), plan.entries(), tensors(), shard_bytes)
    copy_others(plan.checkpoint.folder, folder)


def write_files(folder: Path, config: Mapping[str, Any], entries: Mapping[str, Entry],
                tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json and the weights: the tensors `entries`, each once, in any order. Raises OSError."""
    with ShardWriter(folder, entries, shard_bytes) as writer:
        for name, tensor in tensors:
            writer.write(name, tensor)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def other_files(parent: Path) -> list[Path]:
    """The files that are the same of any model made of `parent`: tokenizer, templates, licence. Raises OSError."""
    return [path for path in sorted(parent.iterdir())       # its folders hold second copies of weights
            if path.is_file() and path.name not in _OWN and not path.name.endswith(_WEIGHTS)]


def copy_others(parent: Path, folder: Path) -> None:
    """Copy what is the same of any model made of `parent`. Raises OSError."""
    for path in other_files(parent):
        shutil.copyfile(path, folder / path.name)


def rounded(plan: Plan, name: str) -> dict[str, Tensor]:
    """What is stored of the parent's tensor called `name`: itself, or codes of it by rounding to nearest.

    Raises ModelError for numbers that codes cannot stand for.
    """
    dense, new = plan.checkpoint.stored(name), plan.names[name]
    if (scheme := plan.schemes.get(new)) is None:
        return {new: dense}
    check_codable(plan.checkpoint.folder, {name: tuple(dense.shape)}, dense, scheme)
    return {stored_name(new, end): tensor for end, tensor in encode(packer(scheme).pack(dense), scheme).items()}
