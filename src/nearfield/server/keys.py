"""API keys: read from a file, compared in constant time, never kept or logged as they are.

Every key is compared with every digest, so that the time of an answer says neither which key nor how much
of one was right. A key's digest also names its tenant: prefixes are shared within a key only, because a
faster first token would tell one user what another has asked.
"""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from nearfield.core.errors import ConfigError

TENANT_DIGITS = 16


class KeyRing:
    """The keys that open the server. Empty: it is open to all, as one tenant."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = tuple(sha256(key.encode()).digest() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def tenant(self, authorization: bytes | None) -> str | None:
        """The tenant that an Authorization header ("Bearer KEY") stands for; None when it opens nothing."""
        if not self._digests:
            return ""
        scheme, _, key = (authorization or b"").partition(b" ")
        digest = sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:TENANT_DIGITS] if scheme.lower() == b"bearer" and any(matches) else None


def read_keys(path: Path) -> KeyRing:
    """Read a file of keys: one a line, empty lines and lines that begin with # are skipped.

    Raises ConfigError when the file can not be read, holds no key, or a key with a space in it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"can not read the API keys in {path}: {reason}; give a file with one key a line") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if any(len(key.split()) != 1 for key in keys):
        raise ConfigError(f"{path}: a key has a space in it; write one key a line, and comments on lines of their own")
    if not keys:
        raise ConfigError(f"{path} holds no API key; write one a line")
    return KeyRing(keys)
