"""From codes back to plain tensors: a dense folder, which anything can be made of again."""

from pathlib import Path

from torch import Tensor

from nearfield.compress.coded import open_coded
from nearfield.compress.dense_folder import make_dense
from nearfield.compress.folder import Progress
from nearfield.formats.checkpoint import Entry
from nearfield.formats.shards import SHARD_BYTES


def unpack_folder(source: Path, out: Path, *, shard_bytes: int = SHARD_BYTES,
                  progress: Progress = lambda done, total: None) -> None:
    """Write the model in the folder `source` to the new folder `out`, each matrix of codes as the numbers that they
    stand for, rounded to the dtype of config.json; one is in memory at a time. `progress`: tensors done, and all.

    Raises ConfigError for a model that is dense already, or where `out` cannot be written, ModelError for numbers that
    cannot be read, or that the dtype does not hold.
    """
    model = open_coded(source)
    entries = {name: Entry(shape, model.dtype) for name, shape in model.shapes().items()}
    last = next(reversed(entries))

    def made(name: str) -> Tensor:
        tensor = model.dense(name)
        if name == last:
            model.check_all_read()
        return tensor

    make_dense(model.folder, out, model.described(), entries, made, "unpack", model.facts(),
               shard_bytes=shard_bytes, progress=progress)
