"""The choice of least cost that fits, against trying all of them."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from nearfield.compress.knapsack import fit

CHOICES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 1000)), min_size=1, max_size=4)


def best(things: list[list[tuple[int, int]]], room: int) -> int | None:
    costs = [sum(cost for _, cost in picks) for picks in product(*things) if sum(size for size, _ in picks) <= room]
    return min(costs, default=None)


@given(st.lists(CHOICES, min_size=1, max_size=5), st.integers(0, 300))
def test_the_least_cost_of_all_that_fit(things: list[list[tuple[int, int]]], room: int) -> None:
    picks, want = fit(things, room), best(things, room)
    if picks is None:
        assert want is None
        return
    chosen = [choices[pick] for choices, pick in zip(things, picks, strict=True)]
    assert sum(size for size, _ in chosen) <= room
    assert sum(cost for _, cost in chosen) == want


@given(st.lists(CHOICES, min_size=1, max_size=5), st.integers(1, 300))
def test_large_sizes_lose_less_than_a_step_for_each_thing(things: list[list[tuple[int, int]]], room: int) -> None:
    """In units that the table has not: never too large, and as good as a room smaller by one step a thing."""
    unit = 1_000_003
    large = [[(size * unit, cost) for size, cost in choices] for choices in things]
    picks = fit(large, room * unit)
    if picks is None:
        assert best(things, room) is None
        return
    chosen = [choices[pick] for choices, pick in zip(large, picks, strict=True)]
    assert sum(size for size, _ in chosen) <= room * unit
    least = best(things, room - 1)
    assert least is None or sum(cost for _, cost in chosen) <= least
