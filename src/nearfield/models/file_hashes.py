"""What files contain, by sha256, without reading a gigabyte at every start.

A file's hash is remembered beside what the system says of it: size, inode, and the times of the last change
of its content and of its entry. While all are as they were, the file counts as unchanged; who writes other
bytes of the same length and then sets back the system's clock is not found out.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nearfield.models.pack_file import unfinished

_log = logging.getLogger("nearfield")


class FileHashes:
    """Hashes of files, remembered in `memo`; where that fails a warning says so."""

    def __init__(self, memo: Path) -> None:
        self._memo = memo
        self._known = _read(memo)

    def of(self, files: Sequence[Path], threads: int) -> list[str]:
        """The sha256 of each file in hexadecimal; those unknown are read, `threads` at a time. Raises OSError."""
        paths = [file.resolve() for file in files]
        new = [path for path in paths if self._recall(path) is None]
        if new:
            with ThreadPoolExecutor(threads) as pool:
                for path, entry in zip(new, pool.map(_entry, new), strict=True):
                    self._known[str(path)] = entry
            self._remember()
        return [self._known[str(path)][-1] for path in paths]

    def unchanged(self, files: Sequence[Path]) -> bool:
        """None of the files has changed since `of` was asked for it."""
        return all(self._recall(file.resolve()) is not None for file in files)

    def _recall(self, path: Path) -> str | None:
        entry = self._known.get(str(path))
        return entry[-1] if entry is not None and entry[:-1] == _marks(path) else None

    def _remember(self) -> None:
        known = {name: entry for name, entry in self._known.items() if Path(name).exists()}
        try:
            name, file = unfinished(self._memo)
            try:
                with file:
                    file.write(json.dumps(known, indent=1).encode())
                name.replace(self._memo)
            finally:
                name.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the hashes of the checkpoint are not remembered in %s: %s; each start reads all of it",
                         self._memo, error)


def _marks(path: Path) -> list[str]:
    stat = path.stat()
    return [str(mark) for mark in (stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)]


def _entry(path: Path) -> list[str]:
    """What is remembered of a file: its marks as they were before it was read, and its hash."""
    marks = _marks(path)
    with open(path, "rb") as file:
        return [*marks, hashlib.file_digest(file, "sha256").hexdigest()]


def _read(memo: Path) -> dict[str, list[str]]:
    """Empty where there is none, or what is there is not one."""
    try:
        known = json.loads(memo.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {name: entry for name, entry in entries
            if isinstance(entry, list) and len(entry) == 5 and all(isinstance(mark, str) for mark in entry)}
