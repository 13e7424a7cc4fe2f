"""A GGUF file as a model's folder: the small files that it would have, made in the user's cache, and a link to it.

All who read a folder (config, tokenizer, chat template, generation) read this one; only the weights come from the
file itself (gguf_checkpoint.py). The folder is found by the bytes of the file's header and by the code that makes the
small files of them, so that it is never out of date, and a vocabulary is read once, not at each start.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from nearfield.core.errors import ModelError
from nearfield.formats.gguf import SUFFIX, GgufFile
from nearfield.models import gguf_config, gguf_tokenizer
from nearfield.models.gguf_config import read_config
from nearfield.models.gguf_tokenizer import tokenizer_files
from nearfield.models.pack_folder import cache_folder

LINK = f"model{SUFFIX}"
_PARTIAL = "partial-"
_ABANDONED = 3600.0
"""Seconds after which a folder that is being made is one that a killed process left: it takes two."""


def open_gguf(path: Path) -> Path:
    """The folder of the model in the GGUF file `path`. Raises ModelError for a file that is not whole or holds a model
    that is not supported, or where there is no place for the folder."""
    file = GgufFile.read(path.absolute(), words=False)
    digest = hashlib.sha256(repr((str(file.path), file.digest, _code())).encode()).hexdigest()[:32]
    try:
        cache = cache_folder() / "gguf"
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        folder = cache / digest / path.stem      # a served model has its folder's name
        if not folder.is_dir():
            _make(folder, file.path, _small(GgufFile.read(file.path)))
        return folder
    except OSError as error:
        raise ModelError(f"{path}: there is no place for its config and tokenizer ({error}); name a folder that can be "
                         "written to in NEARFIELD_CACHE") from None


def origin(folder: Path) -> Path:
    """What a user calls the model in `folder`: the GGUF file that it was made of, or the folder."""
    link = folder / LINK
    return link.readlink() if link.is_symlink() else folder


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file that a folder without a config.json consists of. Raises ModelError where there are several."""
    if (folder / "config.json").exists():
        return None
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise ModelError(f"{folder}: holds {len(files)} models, {', '.join(file.name for file in files)}; name one")
    return files[0] if files else None


def _small(file: GgufFile) -> dict[str, bytes]:
    """The small files, by name."""
    return {"config.json": (json.dumps(read_config(file), indent=2) + "\n").encode(), **tokenizer_files(file)}


def _code() -> list[str]:
    """What decides the small files, beside the header."""
    sources = (Path(module.__file__ or "") for module in (gguf_config, gguf_tokenizer))
    return [version("tokenizers"), *(hashlib.sha256(source.read_bytes()).hexdigest() for source in sources)]


def _make(folder: Path, path: Path, small: Mapping[str, bytes]) -> None:
    """Make the folder under another name; whoever comes first gives it its own."""
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent.parent))
    try:
        inner = partial / folder.name
        inner.mkdir()
        for name, data in small.items():
            (inner / name).write_bytes(data)
        (inner / LINK).symlink_to(path)
        try:
            partial.rename(folder.parent)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove the folders of files that are gone, and what killed processes left."""
    for made in list(cache.iterdir()):
        with suppress(OSError):     # another process has just given it its name, or removed it
            if made.name.startswith(_PARTIAL):
                gone = time.time() - made.stat().st_mtime > _ABANDONED
            else:
                gone = not any((folder / LINK).exists() for folder in made.iterdir())
            if gone:
                shutil.rmtree(made, ignore_errors=True)
