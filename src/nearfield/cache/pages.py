"""The pages of the KV cache as a pool of integers with reference counts.

A page is an id; its bytes live in the store. An owner is anyone who keeps an id: a request, or the
prefix tree. A page is free exactly when its count is 0. Misuse is a bug, so it raises RuntimeError.
"""

from collections.abc import Mapping

from nearfield.core.errors import ConfigError
from nearfield.core.types import PageId


class PagePool:
    """Pages 0 .. num_pages-1, each free or owned. Every call is O(1), save `check`.

    Raises ConfigError when there would be no page at all.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ConfigError(f"the KV cache would hold {num_pages} pages; give it more memory (kv_memory)")
        self._references = [0] * num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._shared = 0

    @property
    def total(self) -> int:
        return len(self._references)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def shared(self) -> int:
        """Pages with more than one owner."""
        return self._shared

    def refcount(self, page: PageId) -> int:
        return self._references[page]

    def allocate(self) -> PageId | None:
        """Take a free page for one owner; None when there is none. Its old content is still in the store."""
        if not self._free:
            return None
        page = self._free.pop()
        self._references[page] = 1
        return page

    def retain(self, page: PageId) -> None:
        """Add an owner to a page that has one. Raises RuntimeError on a free page."""
        self._require_owned(page, "retained")
        self._references[page] += 1
        self._shared += self._references[page] == 2

    def release(self, page: PageId) -> bool:
        """Take an owner from a page; True when that was the last and the page is free now.

        Raises RuntimeError on a free page (a double free).
        """
        self._require_owned(page, "released")
        self._references[page] -= 1
        self._shared -= self._references[page] == 1
        if self._references[page]:
            return False
        self._free.append(page)
        return True

    def check(self, expected: Mapping[PageId, int]) -> None:
        """Raise RuntimeError unless every page has the `expected` number of owners (0 where absent)
        and the free list holds each page without an owner once."""
        for page, count in enumerate(self._references):
            if count != expected.get(page, 0):
                raise RuntimeError(f"page {page} counts {count} owners, {expected.get(page, 0)} are known")
        unowned = [page for page, count in enumerate(self._references) if count == 0]
        if sorted(self._free) != unowned:
            raise RuntimeError(f"pages {sorted(self._free)} are on the free list, {unowned} have no owner")
        if self._shared != sum(count > 1 for count in self._references):
            raise RuntimeError(f"{self._shared} pages are counted as shared, which is not so")

    def _require_owned(self, page: PageId, action: str) -> None:
        if not (0 <= page < self.total and self._references[page] > 0):
            raise RuntimeError(f"page {page} of {self.total} is {action} but has no owner")
