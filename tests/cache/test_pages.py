"""The page pool: counts, the free list, and the bugs it must not let pass."""

import pytest

from nearfield.cache.pages import PagePool
from nearfield.core.errors import ConfigError


def test_gives_each_page_once_and_then_none() -> None:
    pool = PagePool(3)
    pages = [pool.allocate() for _ in range(4)]
    assert sorted(page for page in pages if page is not None) == [0, 1, 2]
    assert pages[3] is None
    assert (pool.free, pool.total) == (0, 3)


def test_a_page_is_free_when_its_last_owner_lets_go() -> None:
    pool = PagePool(1)
    page = pool.allocate()
    assert page is not None
    pool.retain(page)
    assert (pool.refcount(page), pool.shared) == (2, 1)
    assert not pool.release(page)
    assert (pool.refcount(page), pool.shared, pool.free) == (1, 0, 0)
    assert pool.release(page)
    assert (pool.refcount(page), pool.shared, pool.free) == (0, 0, 1)
    assert pool.allocate() == page


def test_double_free_is_an_error() -> None:
    pool = PagePool(2)
    page = pool.allocate()
    assert page is not None
    pool.release(page)
    with pytest.raises(RuntimeError, match=f"page {page} of 2 is released but has no owner"):
        pool.release(page)
    pool.check({})


@pytest.mark.parametrize("page", [0, -1, 2])
def test_retaining_what_nobody_owns_is_an_error(page: int) -> None:
    with pytest.raises(RuntimeError, match=f"page {page} of 2 is retained but has no owner"):
        PagePool(2).retain(page)


def test_check_compares_with_the_known_owners() -> None:
    pool = PagePool(3)
    first, second = pool.allocate(), pool.allocate()
    assert first is not None and second is not None
    pool.retain(second)
    pool.check({first: 1, second: 2})
    with pytest.raises(RuntimeError, match=f"page {second} counts 2 owners, 1 are known"):
        pool.check({first: 1, second: 1})
    with pytest.raises(RuntimeError, match=f"page {first} counts 1 owners, 0 are known"):
        pool.check({second: 2})


def test_a_cache_without_pages_is_refused() -> None:
    with pytest.raises(ConfigError, match="kv_memory"):
        PagePool(0)
