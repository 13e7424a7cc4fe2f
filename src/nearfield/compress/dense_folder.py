"""Writing a model again with dense tensors: what pruning, distilling and unpacking end in.

One tensor is in memory at a time; what each will be is known in advance. All other files are the parent's.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfield.compress.folder import Progress, copy_others, write_files
from nearfield.compress.place import check_out, check_space, made_whole
from nearfield.compress.report import REPORT, add_section
from nearfield.formats.checkpoint import Entry
from nearfield.formats.shards import SHARD_BYTES


def write_dense(parent: Path, folder: Path, config: Mapping[str, Any], entries: Mapping[str, Entry],
                made: Callable[[str], Tensor], *, shard_bytes: int = SHARD_BYTES,
                progress: Progress = lambda done, total: None) -> None:
    """Fill the empty `folder`: `config` is all of config.json, `made` gives each of the tensors `entries`, in their
    order, and other files are copied from `parent`. `progress`: tensors done, and all.

    Raises OSError where there is no room and as writing does, ValueError for a tensor that is not its entry.
    """
    def tensors() -> Iterator[tuple[str, Tensor]]:
        for done, name in enumerate(entries):
            progress(done, len(entries))
            yield name, made(name)
        progress(len(entries), len(entries))

    check_space(folder, sum(entry.nbytes for entry in entries.values()))
    write_files(folder, config, entries, tensors(), shard_bytes)
    copy_others(parent, folder)


def make_dense(parent: Path, out: Path, config: Mapping[str, Any], entries: Mapping[str, Entry],
               made: Callable[[str], Tensor], section: str, facts: Mapping[str, Any], *,
               shard_bytes: int = SHARD_BYTES, progress: Progress = lambda done, total: None) -> None:
    """Make the new folder `out`, whole or not at all: as `write_dense`, with a `section` in its report.json that
    holds `facts` and the seconds it took. Raises ConfigError where `out` cannot be written."""
    check_out(out, parent)
    start = time.monotonic()
    with made_whole(out) as folder:
        write_dense(parent, folder, config, entries, made, shard_bytes=shard_bytes, progress=progress)
        add_section(folder / REPORT, section, {**facts, "seconds": round(time.monotonic() - start, 1)})
