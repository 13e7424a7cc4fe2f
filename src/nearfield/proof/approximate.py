"""Receipts of peers whose bits nobody can repeat, such as a GPU or a backend without a numeric profile.

Beside the digests, such a receipt binds a sketch of every state: its projection on sixteen fixed random directions
(Johnson and Lindenstrauss 1984), 32 bytes a token. A verifier computes the answer with its own arithmetic and looks
at how far its sketches lie from the peer's, in the median, and at how many tokens it would have chosen as well.

This is a tolerance, so it has a reach (measured: docs/receipts.md). It tells another model, another prompt and
quantised weights; one changed weight passes, and so does slightly other sampling. Reports that rest on it say
"approximate".
"""

import hashlib
import struct
from collections.abc import Sequence
from statistics import median

import numpy as np

from nearfield.core.types import TokenId
from nearfield.proof.digest import tagged

PREFIX = "approximate-"
"""What the profile of such a receipt begins with."""
DIRECTIONS = 16
SKETCH_BYTES = 2 * DIRECTIONS
MAX_DISTANCE = 0.015
"""Of sketches, as a share of the verifier's own, in the median over an answer's tokens. Calibrated on the pocket model:
honest bf16 peers in torch are up to 0.008 apart from fp32, int8 weights at least 0.024."""
OTHER, DEVIATIONS = 0.06, 4.0
"""Of tokens, those that the verifier of an honest peer chooses otherwise (bf16 in torch: 0.04), and the standard
deviations above it that chance may bring."""


class Sketcher:
    """Projects states of one size. The signs of the directions come of SHA-256, so that all know them."""

    def __init__(self) -> None:
        self._signs: np.ndarray[tuple[int, int], np.dtype[np.float32]] | None = None

    def __call__(self, state: bytes) -> bytes:
        """The sketch of a state (fp32, little-endian): sixteen float16, little-endian."""
        values = np.frombuffer(state, "<f4")
        if self._signs is None or self._signs.shape[1] != len(values):
            self._signs = _signs(len(values))
        projected = self._signs @ values / np.float32(len(values) ** 0.5)
        return bytes(np.clip(projected, -65504, 65504).astype("<f2").tobytes())


def sketch_hash(sketches: bytes) -> bytes:
    """What a receipt holds of the sketches of an answer."""
    return tagged("sketch", sketches)


def distance(mine: bytes, theirs: bytes) -> float:
    """The median over tokens of how far `theirs` lie from `mine`, as a share of mine; infinite for another number
    of tokens, or sketches that are no numbers."""
    if len(mine) != len(theirs) or not mine or len(mine) % SKETCH_BYTES:
        return float("inf")
    a, b = (np.frombuffer(data, "<f2").reshape(-1, DIRECTIONS).astype(np.float64) for data in (mine, theirs))
    if not np.isfinite(b).all():
        return float("inf")
    lengths = np.maximum(np.linalg.norm(a, axis=1), 1e-6)
    return float(median((np.linalg.norm(a - b, axis=1) / lengths).tolist()))


def agrees(mine: Sequence[TokenId | None], theirs: Sequence[TokenId]) -> tuple[int, bool]:
    """How many tokens differ between what the verifier chooses and what the peer chose, and whether that is honest."""
    differ = sum(a != b for a, b in zip(mine, theirs, strict=True))
    count = len(theirs)
    return differ, differ <= max(2, count * OTHER + DEVIATIONS * (count * OTHER * (1 - OTHER)) ** 0.5)


def _signs(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[16, size] of +1 and -1."""
    blocks = -(-DIRECTIONS * size // 256)
    bits = b"".join(hashlib.sha256(b"nearfield directions v1\0" + struct.pack("<II", size, i)).digest()
                    for i in range(blocks))
    drawn = np.unpackbits(np.frombuffer(bits, np.uint8))[:DIRECTIONS * size].reshape(DIRECTIONS, size)
    return (1 - 2 * drawn.astype(np.float32)).reshape(DIRECTIONS, size)
