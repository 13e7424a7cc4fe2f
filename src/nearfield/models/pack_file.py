"""The file of a pack: blobs of bytes, and behind them an index in JSON that says what they are.

    64 bytes      magic and version, where the index begins, its length, its sha256
    blobs         each at a multiple of 4,096 bytes, in the order in which they came
    index         a JSON object; it holds the Blob of each: where it begins, its length, its sha256

The first 64 bytes are written last, under another name, and the file gets its own name when all of it is on
the disk: no crash leaves a file that looks whole. Nothing that was read counts before its hash agrees.
"""

import fcntl
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

SUFFIX = ".pack"
UNFINISHED = ".part"
"""The suffix of a file that is being written. Its writer holds a lock on it, which ends with the process."""

_MAGIC = b"nearfield pack 1"
_START = struct.Struct("<16sQQ32s")
_ALIGN = 4096
_CHUNK = 1 << 20
"""Bytes hashed at once, while the processor's cache still holds them."""


class DamagedPackError(Exception):
    """The file is not whole, was changed, or is not a pack; the message says which."""


@dataclass(frozen=True)
class Blob:
    """Where bytes lie in a file, and their sha256 in hexadecimal."""

    offset: int
    length: int
    sha256: str


def unfinished(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, to be written and then to take its name. Raises OSError."""
    handle, name = tempfile.mkstemp(UNFINISHED, path.stem, path.parent)
    file = open(handle, "wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return Path(name), file


class PackWriter:
    """A pack that is being written beside `path`: `add` the blobs, then `commit` or `discard`. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path, (self._name, self._file) = path, unfinished(path)
        self._end = _START.size

    def add(self, data: memoryview) -> Blob:
        """Write bytes (a flat view) behind the last ones."""
        offset, digest = -(-self._end // _ALIGN) * _ALIGN, hashlib.sha256()
        self._file.seek(offset)
        for first in range(0, len(data), _CHUNK):
            chunk = data[first:first + _CHUNK]
            digest.update(chunk)
            self._file.write(chunk)
        self._end = offset + len(data)
        return Blob(offset, len(data), digest.hexdigest())

    def commit(self, index: Mapping[str, Any]) -> int:
        """Make the file whole and give it its name, in place of any that has it. Returns its length in bytes."""
        text = json.dumps(index).encode()
        blob = self.add(memoryview(text))
        self._file.seek(0)
        self._file.write(_START.pack(_MAGIC, blob.offset, blob.length, bytes.fromhex(blob.sha256)))
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._name, self._path)
        self._file.close()
        _sync_folder(self._path.parent)
        return self._end

    def discard(self) -> None:
        """Leave nothing behind. Harmless after `commit`."""
        self._name.unlink(missing_ok=True)
        try:
            self._file.close()
        except OSError:   # what is still in the buffer finds no room either
            pass


class PackReader:
    """A pack that is there. `index` is what `commit` was given.

    Raises FileNotFoundError where there is none, another OSError where it cannot be read, DamagedPackError.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)
        try:
            self.index = self._read_index()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def read(self, blob: Blob, into: memoryview) -> None:
        """Fill `into`, a flat view of blob.length bytes. Several threads may read at once."""
        if len(into) != blob.length:
            raise DamagedPackError(f"{blob.length} bytes where {len(into)} are needed")
        digest, done = hashlib.sha256(), 0
        while done < blob.length:
            chunk = into[done:done + _CHUNK]
            count = os.preadv(self._file.fileno(), [chunk], blob.offset + done)
            if count == 0:
                raise DamagedPackError("it is cut short")
            digest.update(chunk[:count])
            done += count
        if digest.hexdigest() != blob.sha256:
            raise DamagedPackError(f"{blob.length} bytes at {blob.offset} have been changed")

    def _read_index(self) -> Any:
        start = self._file.read(_START.size) or b""
        if len(start) < _START.size or not start.startswith(_MAGIC):
            raise DamagedPackError("it does not begin as a whole pack of this version does")
        _, offset, length, digest = _START.unpack(start)
        if offset + length > os.fstat(self._file.fileno()).st_size:
            raise DamagedPackError("it is cut short")
        text = bytearray(length)
        self.read(Blob(offset, length, digest.hex()), memoryview(text))
        return json.loads(text)


def _sync_folder(folder: Path) -> None:
    """Put a new name on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
