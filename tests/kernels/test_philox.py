"""Philox against the published vectors of Random123 (kat_vectors, philox 4x32, 10 rounds)."""

import pytest

from nearfield.kernels.reference.philox import philox4x32, uniform

FULL = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "want"), VECTORS)
def test_published_vectors(counter: tuple[int, int, int, int], key: tuple[int, int],
                           want: tuple[int, int, int, int]) -> None:
    assert philox4x32(counter, key) == want


def test_uniform_depends_on_each_of_its_arguments() -> None:
    draws = {uniform(seed, position, index) for seed in (0, 1, 2**40, -1)
             for position in (0, 1, 2**33) for index in (0, 1)}
    assert len(draws) == 24
    assert all(0 <= u < 1 for u in draws)


def test_uniform_is_spread_evenly() -> None:
    draws = [uniform(7, position, 0) for position in range(4000)]
    counts = [sum(low <= 8 * u < low + 1 for u in draws) for low in range(8)]
    # 500 expected in each eighth; 5 standard deviations are 105.
    assert all(abs(count - 500) < 105 for count in counts)
