"""Where a seed comes from: both sides' nonces, so that neither chooses the answer's luck alone.

A node that draws its nonce after it has seen the client's could try many and keep the answer it likes. So a client
may fetch the node's nonce first and name it in its request; each is good once, for a while.
"""

import secrets
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from nearfield.proof.digest import DIGEST_SIZE, tagged

NONCE_SECONDS = 600.0
MAX_NONCES = 10_000


def seed_of(client_nonce: bytes, node_nonce: bytes, index: int) -> int:
    """The seed of answer `index` of a response: the first 64 bits of a digest of both nonces and the index."""
    return int.from_bytes(tagged("seed", client_nonce, node_nonce, struct.pack("<I", index))[:8], "big")


class NodeNonces:
    """The nonces that were handed out and not used. The oldest make room for new ones."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, float] = OrderedDict()

    def hand_out(self) -> bytes:
        """A new nonce, for a client to name within NONCE_SECONDS."""
        nonce = secrets.token_bytes(DIGEST_SIZE)
        with self._lock:
            self._open[nonce] = self._clock() + NONCE_SECONDS
            while len(self._open) > MAX_NONCES:
                self._open.popitem(last=False)
        return nonce

    def use(self, nonce: bytes) -> bool:
        """Use a nonce up; False for one that was not handed out, was used before, or has expired."""
        with self._lock:
            expires = self._open.pop(nonce, None)
        return expires is not None and self._clock() <= expires
