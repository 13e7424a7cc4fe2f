"""The chain of a node's receipts: each names the one before, and the last one is kept on the disk.

The disk knows of a receipt before anyone else does. A crash in between leaves a number that nobody has seen, never
two receipts of one number, which would look like a node that tells two stories.
"""

import fcntl
import os
import re
import tempfile
from pathlib import Path

from nearfield.core.errors import ConfigError
from nearfield.proof.digest import DIGEST_SIZE

_LINE = re.compile(r"nearfield receipts 1 ([0-9]{1,20}) ([0-9a-f]{64})\n")


class ReceiptChain:
    """`number` and `last`, the digest of the last receipt (zeros before the first), kept in `file`.

    One process at a time holds a chain. Raises ConfigError when another does, or when the file is damaged.
    Not thread-safe.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError(f"{file.parent}: another process gives receipts from this folder; stop it, or give "
                              "this node a folder of its own") from None
        try:
            self.number, self.last = _read(file)
        except ConfigError:
            self.close()
            raise

    def advance(self, digest: bytes) -> None:
        """Put the next receipt's digest on the disk; it is there when this returns. Raises OSError."""
        line = f"nearfield receipts 1 {self.number + 1} {digest.hex()}\n"
        handle, name = tempfile.mkstemp(".part", self._file.name, self._file.parent)   # mode 0600
        try:
            with open(handle, "w") as part:
                part.write(line)
                part.flush()
                os.fsync(part.fileno())
            os.replace(name, self._file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.number, self.last = self.number + 1, digest

    def close(self) -> None:
        """Let another process have the chain."""
        os.close(self._lock)


def _read(file: Path) -> tuple[int, bytes]:
    try:
        text = file.read_text()
    except FileNotFoundError:
        return 0, bytes(DIGEST_SIZE)
    except (OSError, UnicodeDecodeError):
        text = ""
    found = _LINE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{file}: is not the end of a chain of receipts; restore it, or move it away to begin a "
                          "new chain")
    return int(found[1]), bytes.fromhex(found[2])
