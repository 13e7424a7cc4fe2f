"""The null index, and the keys that name a prefix."""

from nearfield.cache.prefix import NoPrefix, PrefixIndex, page_keys


def test_no_prefix_remembers_nothing() -> None:
    index: PrefixIndex = NoPrefix()
    index.insert([1, 2], [0], "")
    assert index.match([1, 2], "") == []
    assert index.evict(5) == index.cached == index.evictable == 0
    assert not index.references()
    index.check()


def test_keys_name_whole_pages_and_all_before_them() -> None:
    keys = page_keys((1, 2, 3, 4, 5), "a", 2)
    assert len(keys) == len(set(keys)) == 2
    assert page_keys((1, 2, 3, 4), "a", 2) == keys
    assert page_keys((1, 2, 9, 9), "a", 2)[0] == keys[0]
    assert page_keys((9, 9, 3, 4), "a", 2)[1] != keys[1]
    assert not set(page_keys((1, 2, 3, 4), "b", 2)) & set(keys)
    assert page_keys((1,), "a", 2) == ()
