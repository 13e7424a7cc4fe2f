"""The page pool against a plain dictionary of counts, over random calls."""

from hypothesis import given
from hypothesis import strategies as st

from nearfield.cache.pages import PagePool

CALLS = st.tuples(st.sampled_from(["allocate", "retain", "release"]), st.integers(0, 5))


@given(st.integers(1, 6), st.lists(CALLS, max_size=60))
def test_counts_as_a_dictionary_does(total: int, calls: list[tuple[str, int]]) -> None:
    pool, owners = PagePool(total), dict[int, int]()
    for call, choice in calls:
        if call == "allocate":
            page = pool.allocate()
            assert (page is None) == (len(owners) == total)
            if page is not None:
                assert page not in owners
                owners[page] = 1
        elif owners:
            page = sorted(owners)[choice % len(owners)]
            if call == "retain":
                pool.retain(page)
                owners[page] += 1
            else:
                owners[page] -= 1
                assert pool.release(page) == (owners[page] == 0)
                owners = {page: count for page, count in owners.items() if count}
        pool.check(owners)
        assert pool.free == total - len(owners)
        assert pool.shared == sum(count > 1 for count in owners.values())
