"""The manager: who owns which page, and promises that are kept in full or not at all."""

import pytest

from nearfield.cache.manager import CacheManager

PROMPT = list(range(8))


def computed(cache: CacheManager, name: str, tokens: list[int], tenant: str = "", *,
             share: bool = True) -> int:
    """Begin, compute and publish a request; return the tokens it found."""
    matched = cache.begin(name, tokens, tenant, share=share)
    assert cache.extend(name, len(tokens))
    cache.publish(name, tokens, len(tokens))
    cache.check()
    return matched


def test_a_prefix_is_found_again_save_its_last_token() -> None:
    cache = CacheManager(8, 2)
    assert computed(cache, "a", PROMPT) == 0
    pages = cache.pages("a")
    cache.release("a")
    assert (cache.free, cache.cached, cache.total) == (4, 4, 8)
    assert cache.begin("b", PROMPT, "") == 6  # the last token is computed again, for its logits
    assert cache.pages("b") == pages[:3]
    assert cache.begin("c", [*PROMPT, 9], "") == 8
    assert cache.begin("d", PROMPT[:5], "") == 4
    assert cache.begin("e", PROMPT[:1], "") == cache.begin("f", [], "") == 0
    assert cache.requests == {"b", "c", "d", "e", "f"}
    cache.check()


def test_only_whole_computed_pages_are_published() -> None:
    cache = CacheManager(8, 2)
    cache.begin("a", PROMPT, "")
    cache.extend("a", 8)
    cache.publish("a", PROMPT, 5)
    assert cache.cached == 2
    assert cache.begin("b", PROMPT, "") == 4


def test_a_page_computed_twice_is_kept_once() -> None:
    cache = CacheManager(8, 2)
    for name in ("a", "b"):
        cache.begin(name, PROMPT, "")
        cache.extend(name, 8)
    assert cache.free == 0
    cache.publish("a", PROMPT, 8)
    cache.publish("b", PROMPT, 7)
    cache.check()
    assert cache.pages("b")[:3] == cache.pages("a")[:3]
    assert cache.pages("b")[3] != cache.pages("a")[3]
    assert cache.free == 3


def test_tenants_and_unshared_requests_find_nothing() -> None:
    cache = CacheManager(32, 2)
    computed(cache, "a", PROMPT, "mine")
    assert computed(cache, "b", PROMPT, "yours") == 0
    assert computed(cache, "c", PROMPT, "mine", share=False) == 0
    assert not set(cache.pages("c")) & {*cache.pages("a"), *cache.pages("b")}
    cache.release("c")
    assert (cache.free, cache.cached) == (24, 8)


def test_without_prefix_nothing_is_shared() -> None:
    cache = CacheManager(8, 2, prefix=False)
    assert computed(cache, "a", PROMPT) == 0
    assert computed(cache, "b", PROMPT) == 0
    assert not set(cache.pages("a")) & set(cache.pages("b"))
    cache.release("a")
    cache.release("b")
    assert (cache.free, cache.cached, cache.shares) == (8, 0, False)
    cache.check()


def test_extend_evicts_what_nobody_uses() -> None:
    cache = CacheManager(4, 2)
    computed(cache, "a", PROMPT)
    cache.release("a")
    assert (cache.free, cache.cached) == (0, 4)
    cache.begin("b", [7, 7, 7], "")
    assert cache.extend("b", 3)
    assert (cache.free, cache.cached) == (0, 2)
    cache.check()


def test_extend_that_must_fail_takes_and_evicts_nothing() -> None:
    cache = CacheManager(4, 2)
    computed(cache, "a", PROMPT[:4])
    cache.release("a")
    cache.begin("b", PROMPT[:3], "")
    cache.begin("c", [7] * 7, "")
    assert not cache.extend("c", 7)
    assert (cache.free, cache.cached, cache.pages("c")) == (2, 2, ())
    assert not cache.extend("c", 6, spare=1)
    assert cache.extend("c", 6)
    assert (cache.free, cache.cached) == (0, 1)
    assert cache.extend("c", 5)
    cache.check()


def test_capacity_is_what_one_request_can_have() -> None:
    cache = CacheManager(4, 2)
    assert cache.capacity == 8
    computed(cache, "a", PROMPT)
    cache.release("a")
    cache.begin("b", PROMPT, "")
    assert cache.extend("b", 8) and not cache.extend("b", 9)


def test_calls_out_of_turn_are_errors() -> None:
    cache = CacheManager(4, 2)
    cache.begin("a", PROMPT, "")
    with pytest.raises(RuntimeError, match="'a' has pages already"):
        cache.begin("a", PROMPT, "")
    cache.release("a")
    for call in (cache.release, cache.pages, lambda name: cache.extend(name, 1)):
        with pytest.raises(RuntimeError, match="'a' has no pages"):
            call("a")


def test_check_notices_a_page_that_nobody_owns() -> None:
    cache = CacheManager(4, 2)
    computed(cache, "a", PROMPT)
    cache._pool.retain(cache.pages("a")[0])
    with pytest.raises(RuntimeError, match="counts 3 owners, 2 are known"):
        cache.check()
