"""What the cache asks of a prefix index, the null index, and the keys that name a prefix by content.

An index remembers which page holds the K/V of which tokens, so that a request which starts alike need
not compute them again. It owns one reference on each page it remembers. `NoPrefix` remembers nothing:
it is the twin that shows in tests that sharing changes no result, and serves when sharing is off.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from nearfield.core.types import PageId, TokenId


class PrefixIndex(Protocol):
    """Finds the cached K/V of a prefix, in whole pages, apart for each tenant.

    Whoever owns a page of the index must own those before it in the same prefix as well; the manager
    sees to it. That is what makes `evictable` a difference of two counters.
    """

    @property
    def cached(self) -> int:
        """Pages that the index owns a reference on."""
        ...

    @property
    def evictable(self) -> int:
        """Pages that `evict` could free now: those which nobody else owns."""
        ...

    def match(self, tokens: Sequence[TokenId], tenant: str) -> list[PageId]:
        """Return the pages of the longest cached prefix; the caller retains them before anything else.

        May change: how recently the pages were used. Not: which pages are cached, nor any reference.
        """
        ...

    def insert(self, tokens: Sequence[TokenId], pages: Sequence[PageId], tenant: str) -> None:
        """Remember that `pages` hold the K/V of `tokens`, which fill them exactly.

        May change: retains the pages whose content is new here. Where this content is cached already
        the caller's page stays the caller's alone.
        """
        ...

    def evict(self, count: int) -> int:
        """Free up to `count` pages that nobody else owns, least recently used first; return how many.

        May change: releases and forgets those pages, each after all that follow it.
        """
        ...

    def references(self) -> Mapping[PageId, int]:
        """The references that the index owns, for `check`. O(cached)."""
        ...

    def check(self) -> None:
        """Raise RuntimeError when the index is not in order. O(cached)."""
        ...


class NoPrefix:
    """The index that remembers nothing."""

    cached = 0
    evictable = 0

    def match(self, tokens: Sequence[TokenId], tenant: str) -> list[PageId]:
        return []

    def insert(self, tokens: Sequence[TokenId], pages: Sequence[PageId], tenant: str) -> None:
        return

    def evict(self, count: int) -> int:
        return 0

    def references(self) -> Mapping[PageId, int]:
        return {}

    def check(self) -> None:
        return


def page_keys(tokens: tuple[TokenId, ...], tenant: str, page_size: int) -> tuple[int, ...]:
    """One key for each whole page of `tokens`, naming its content and all before it, for this tenant.

    Keys of equal prefixes are equal. Those of different ones may be, rarely: never share by key alone.
    """
    keys = []
    key = hash(tenant)
    for start in range(0, len(tokens) - page_size + 1, page_size):
        key = hash((key, tokens[start:start + page_size]))
        keys.append(key)
    return tuple(keys)
