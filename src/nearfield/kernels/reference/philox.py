"""Philox4x32-10: random numbers by counter, so that a draw depends on its key and counter alone.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Plain integers: a row of a
step needs one draw.
"""

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """The four 32-bit words of `counter` under `key`, after ten rounds."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, position: int, sample_index: int) -> float:
    """A number in [0, 1) with 53 random bits for one token: the key is `seed` (its low 64 bits), the
    counter is the token's position in its sequence and which of the `n` answers it belongs to."""
    key = (seed & _MASK, (seed >> 32) & _MASK)
    high, low, _, _ = philox4x32((position & _MASK, position >> 32, sample_index, 0), key)
    return ((high >> 5) * 2**26 + (low >> 6)) / 2**53
