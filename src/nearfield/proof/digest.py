"""The hashes that receipts are made of: SHA-256, each use under a name of its own.

A Merkle tree binds a list of digests to one: leaves and inner nodes are hashed with different first bytes (RFC 6962,
section 2.1), so that neither passes for the other, and the root with the number of leaves.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence

from nearfield.core.types import TokenId

DIGEST_SIZE = 32
STATES_PER_DIGEST = 32
"""Hidden states that share a digest: a difference is placed within so many tokens."""


def tagged(tag: str, *parts: bytes) -> bytes:
    """The digest of `parts`, of which all but one have a fixed length, for the use that `tag` names."""
    digest = hashlib.sha256(f"nearfield {tag} v1\0".encode())
    for part in parts:
        digest.update(part)
    return digest.digest()


def hash_ids(tag: str, ids: Sequence[TokenId]) -> bytes:
    """The digest of token ids, each as 32 bits, little-endian."""
    return tagged(tag, struct.pack(f"<{len(ids)}I", *ids))


def merkle_root(tag: str, leaves: Sequence[bytes]) -> bytes:
    """The root over digests. An odd one at the end of a level moves up as it is."""
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\1" + left + right).digest()
                 for left, right in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(level) // 2 * 2:]
    return tagged(tag, struct.pack("<Q", len(leaves)), *level)


class StateDigests:
    """Digests of hidden states as they come: one SHA-256 for each 32, the last perhaps of fewer."""

    def __init__(self) -> None:
        self._done: list[bytes] = []
        self._open = hashlib.sha256()
        self._count = 0

    def add(self, state: bytes) -> None:
        """The next state: fp32, little-endian."""
        self._open.update(state)
        self._count += 1
        if self._count % STATES_PER_DIGEST == 0:
            self._done.append(self._open.digest())
            self._open = hashlib.sha256()

    def all(self) -> tuple[bytes, ...]:
        """The digests of all that came."""
        return (*self._done, *([self._open.digest()] if self._count % STATES_PER_DIGEST else []))


def state_root(digests: Sequence[bytes]) -> bytes:
    """The one digest that a receipt holds of an answer's states."""
    return merkle_root("states", digests)


def digests_of(states: Iterable[bytes]) -> tuple[bytes, ...]:
    """The digests of states that are all there."""
    made = StateDigests()
    for state in states:
        made.add(state)
    return made.all()
