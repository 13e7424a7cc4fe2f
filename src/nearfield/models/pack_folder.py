"""Where packs lie, and which of them go when there are too many."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from nearfield.models.pack_file import SUFFIX, UNFINISHED

BUDGET = 20 * 10**9
"""Bytes of all packs together; those used last are kept, and the newest one whatever its size."""


def packs_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """packs/ in the cache. Raises OSError for a user without a home."""
    return cache_folder(environ) / "packs"


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """$NEARFIELD_CACHE, or else nearfield/ in the user's cache ($XDG_CACHE_HOME, or ~/.cache).

    Raises OSError for a user without a home.
    """
    if named := environ.get("NEARFIELD_CACHE"):
        return Path(named).expanduser().absolute()
    cache = Path(environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():   # the rule for this variable: a relative path counts as none
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:
            raise FileNotFoundError("this user has no home folder; name one in NEARFIELD_CACHE") from None
    return cache / "nearfield"


def sweep(folder: Path, budget: int = BUDGET) -> None:
    """Remove the packs used longest ago while all together exceed `budget`, and what crashed writers left."""
    packs = [(path, stat) for path in folder.glob(f"*{SUFFIX}") if (stat := _stat(path)) is not None]
    total = 0
    for place, (path, stat) in enumerate(sorted(packs, key=lambda found: -found[1].st_mtime_ns)):
        total += stat.st_size
        if place > 0 and total > budget:
            path.unlink(missing_ok=True)
    for path in folder.glob(f"*{UNFINISHED}"):
        if _abandoned(path):
            path.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    """None for a file that another process has just removed."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _abandoned(path: Path) -> bool:
    """Nobody holds the lock of an unfinished file, so nobody writes it."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:   # locked, or its writer has just given it its own name
        return False
    return True
