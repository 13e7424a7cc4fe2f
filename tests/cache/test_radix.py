"""The radix tree: what it finds, what it takes, what it gives back first."""

import time

import pytest

from nearfield.cache.pages import PagePool
from nearfield.cache.radix import RadixIndex


class Bench:
    """A tree of pages of two tokens, and a pool to feed it."""

    def __init__(self, pages: int = 32) -> None:
        self.pool = PagePool(pages)
        self.index = RadixIndex(self.pool, 2)

    def take(self, count: int) -> list[int]:
        pages = [self.pool.allocate() for _ in range(count)]
        return [page for page in pages if page is not None]

    def insert(self, *tokens: int, tenant: str = "", keep: bool = False) -> list[int]:
        """Insert tokens in new pages, which are the tree's alone afterwards unless kept."""
        pages = self.take(len(tokens) // 2)
        self.index.insert(tokens, pages, tenant)
        if not keep:
            self.release(pages)
        self.index.check()
        return pages

    def release(self, pages: list[int]) -> None:
        for page in pages:
            self.pool.release(page)

    def match(self, *tokens: int, tenant: str = "") -> list[int]:
        pages = self.index.match(tokens, tenant)
        self.index.check()
        return pages


def test_matches_the_longest_prefix_in_whole_pages() -> None:
    bench = Bench()
    pages = bench.insert(1, 2, 3, 4, 5, 6)
    assert bench.match(1, 2, 3, 4, 5, 6, 7, 8) == pages
    assert bench.match(1, 2, 3, 4, 5) == pages[:2]
    assert bench.match(1, 2, 3, 9) == pages[:1]
    assert bench.match(1) == bench.match(2, 1) == bench.match() == []


def test_runs_are_split_where_they_part() -> None:
    bench = Bench()
    first = bench.insert(1, 2, 3, 4, 5, 6)
    second = bench.insert(1, 2, 3, 4, 7, 8)
    assert bench.match(1, 2, 3, 4, 7, 8) == [*first[:2], second[2]]
    assert bench.match(1, 2, 3, 4, 5, 6) == first
    assert bench.index.cached == 4
    assert bench.pool.refcount(second[0]) == 0


def test_a_duplicate_stays_its_owners() -> None:
    bench = Bench()
    first = bench.insert(1, 2)
    second = bench.insert(1, 2, keep=True)
    assert bench.match(1, 2) == first
    assert [bench.pool.refcount(page) for page in (*first, *second)] == [1, 1]
    assert bench.pool.release(second[0])


def test_tenants_do_not_meet() -> None:
    bench = Bench()
    mine = bench.insert(1, 2, 3, 4, tenant="a")
    assert bench.match(1, 2, 3, 4, tenant="b") == []
    theirs = bench.insert(1, 2, 3, 4, tenant="b")
    assert not set(mine) & set(theirs)
    assert bench.match(1, 2, 3, 4, tenant="a") == mine


def test_an_empty_tenant_leaves_nothing_behind() -> None:
    bench = Bench()
    bench.insert(1, 2, 3, 4, tenant="a")
    bench.index.insert([], [], "b")
    assert list(bench.index._roots) == ["a"]
    assert bench.index.evict(9) == 2
    assert not bench.index._roots and not bench.index._leaves
    assert (bench.pool.free, bench.index.cached) == (32, 0)


def test_a_growing_answer_stays_one_run() -> None:
    bench = Bench()
    for pages in range(1, 9):
        bench.insert(*range(2 * pages))
    assert len(list(bench.index._nodes())) == 1
    assert bench.index.cached == 8


def test_evicts_the_least_recently_used_tail_first() -> None:
    bench = Bench()
    old = bench.insert(1, 2, 3, 4)
    new = bench.insert(5, 6, 7, 8)
    assert bench.index.evict(1) == 1
    assert bench.match(1, 2, 3, 4) == old[:1]  # and now it is the last used
    assert bench.index.evict(2) == 2
    assert bench.match(5, 6) == []
    assert bench.match(1, 2) == old[:1]
    assert all(bench.pool.refcount(page) == 0 for page in new)


def test_using_the_head_of_a_run_leaves_its_tail_old() -> None:
    bench = Bench()
    first = bench.insert(1, 2, 3, 4, 5, 6)
    second = bench.insert(7, 8)
    assert bench.match(1, 2) == first[:1]
    assert bench.index.evict(2) == 2
    assert bench.match(1, 2, 3, 4) == first[:1]
    assert bench.match(7, 8) == second


def test_pages_in_use_are_never_evicted() -> None:
    bench = Bench()
    pages = bench.insert(1, 2, 3, 4, 5, 6)
    held = bench.match(1, 2, 3, 4)
    for page in held:
        bench.pool.retain(page)
    assert bench.index.evictable == 1
    assert bench.index.evict(9) == 1
    assert bench.match(1, 2, 3, 4, 5, 6) == pages[:2]
    bench.release(held)
    assert bench.index.evictable == bench.index.evict(9) == 2


def test_evict_of_nothing_changes_nothing() -> None:
    bench = Bench()
    pages = bench.insert(1, 2)
    assert bench.index.evict(0) == bench.index.evict(-3) == 0
    assert bench.match(1, 2) == pages


def test_references_are_the_trees_own() -> None:
    bench = Bench()
    pages = bench.insert(1, 2, 3, 4, keep=True)
    assert bench.index.references() == dict.fromkeys(pages, 1)
    bench.pool.check(dict.fromkeys(pages, 2))


def test_tokens_must_fill_the_pages() -> None:
    bench = Bench()
    with pytest.raises(RuntimeError, match="3 tokens do not fill 2 pages of 2"):
        bench.index.insert([1, 2, 3], bench.take(2), "")


def test_check_notices_a_lost_page() -> None:
    bench = Bench()
    bench.insert(1, 2, 3, 4)
    next(bench.index._nodes()).pages.pop()
    with pytest.raises(RuntimeError, match="the prefix tree counts 2 pages"):
        bench.index.check()


def test_check_notices_an_owner_that_skipped_a_page() -> None:
    bench = Bench()
    bench.pool.retain(bench.insert(1, 2, 3, 4)[1])
    with pytest.raises(RuntimeError, match="has an owner below it that does not own it"):
        bench.index.check()


def test_a_tree_as_deep_as_it_has_pages() -> None:
    bench = Bench(2000)
    tokens = list(range(4000))
    pages = bench.take(2000)
    bench.index.insert(tokens, pages, "")
    bench.release(pages)
    for count in range(1999, 0, -1):
        bench.index.match(tokens[:2 * count], "")
    assert len(list(bench.index._nodes())) == 2000
    bench.index.check()
    assert bench.index.evict(2000) == 2000
    bench.index.check()


def test_evicting_page_by_page_does_not_scan_the_tree() -> None:
    bench = Bench(20_000)
    for first in range(10_000):
        pages = bench.take(2)
        bench.index.insert([first, 0, 0, 0], pages, "")
        bench.release(pages)
    started = time.perf_counter()
    for _ in range(20_000):
        assert bench.index.evict(1) == 1
    assert time.perf_counter() - started < 5  # 0.1 s here; a scan for each page would take minutes
    assert bench.pool.free == 20_000
