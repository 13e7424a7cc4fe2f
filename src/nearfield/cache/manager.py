"""Who owns which page: the one place that composes the page pool and the prefix index.

A request that was begun owns one reference on each of its pages, in the order of its positions:

    positions   [0, published)          [published, computed)     [computed, pages * page_size)
    content     K/V of whole pages      K/V                       none yet
    owners      the index, this         this request              this request
                request, any others

A request writes at `computed` and after, so never into a page that another can read. Where two requests
computed the same content at once, `publish` gives the later one the page of the index for its own,
which is free from then on. So an owner of a page in the index owns all pages before it too, and
every page in the index with no other owner can be evicted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nearfield.cache.pages import PagePool
from nearfield.cache.prefix import NoPrefix, PrefixIndex
from nearfield.cache.radix import RadixIndex
from nearfield.core.types import PageId, RequestId, TokenId


@dataclass(slots=True)
class _Holding:
    """What one request owns: its pages, of which the first `published` are the index's as well."""

    tenant: str
    share: bool
    pages: tuple[PageId, ...]
    published: int


class CacheManager:
    """Pages for requests. Calls that name a request which was not begun raise RuntimeError: a bug.

    `prefix` false computes every prompt in full and shares nothing.
    """

    def __init__(self, num_pages: int, page_size: int, *, prefix: bool = True) -> None:
        self.page_size = page_size
        self.shares = prefix
        self._pool = PagePool(num_pages)
        self._index: PrefixIndex = RadixIndex(self._pool, page_size) if prefix else NoPrefix()
        self._holdings: dict[RequestId, _Holding] = {}

    @property
    def total(self) -> int:
        return self._pool.total

    @property
    def free(self) -> int:
        return self._pool.free

    @property
    def cached(self) -> int:
        """Pages in the prefix index, whether or not a request uses them too."""
        return self._index.cached

    @property
    def evictable(self) -> int:
        """Cached pages that no request uses: as good as free."""
        return self._index.evictable

    @property
    def capacity(self) -> int:
        """Positions that a request which is alone can have."""
        return self._pool.total * self.page_size

    @property
    def requests(self) -> frozenset[RequestId]:
        """Those that were begun and not released."""
        return frozenset(self._holdings)

    def begin(self, request_id: RequestId, tokens: Sequence[TokenId], tenant: str, *,
              share: bool = True) -> int:
        """Give a request the cached pages of its longest known prefix; return how many tokens they hold.

        That is less than len(tokens): the last one is left to compute, for its logits. `share` false
        finds nothing, and publishes nothing later. Takes no free page.
        """
        if request_id in self._holdings:
            raise RuntimeError(f"request {request_id!r} has pages already")
        pages = tuple(self._index.match(tokens[:-1], tenant)) if share else ()
        for page in pages:
            self._pool.retain(page)
        self._holdings[request_id] = _Holding(tenant, share, pages, len(pages))
        return len(pages) * self.page_size

    def extend(self, request_id: RequestId, length: int, *, spare: int = 0) -> bool:
        """Give a request pages for positions 0 .. length-1, evicting unused prefixes where none is free.

        False, with nothing taken and nothing evicted, when there are not as many, or when fewer than
        `spare` pages would remain for the other requests to take.
        """
        holding = self._holding(request_id)
        wanted = -(-length // self.page_size) - len(holding.pages)
        if wanted <= 0:
            return True
        if wanted + spare > self._pool.free + self._index.evictable:
            return False
        self._index.evict(wanted - self._pool.free)
        holding.pages += tuple(self._allocate() for _ in range(wanted))
        return True

    def publish(self, request_id: RequestId, tokens: Sequence[TokenId], computed: int) -> None:
        """Let others share the whole pages among the first `computed` positions, whose K/V are stored.

        May exchange pages of the request for those of the index with the same content: read `pages` anew.
        """
        holding = self._holding(request_id)
        whole = computed // self.page_size
        if not (self.shares and holding.share) or whole <= holding.published:
            return
        prefix = tokens[:whole * self.page_size]
        self._index.insert(prefix, holding.pages[:whole], holding.tenant)
        known = tuple(self._index.match(prefix, holding.tenant))
        for own, kept in zip(holding.pages, known, strict=False):
            if own != kept:
                self._pool.retain(kept)
                self._pool.release(own)
        holding.pages = known + holding.pages[whole:]
        holding.published = whole

    def release(self, request_id: RequestId) -> None:
        """Take all pages from a request; those it published stay cached."""
        for page in self._holding(request_id).pages:
            self._pool.release(page)
        del self._holdings[request_id]

    def pages(self, request_id: RequestId) -> tuple[PageId, ...]:
        """pages[i] holds positions i * page_size .. (i+1) * page_size - 1."""
        return self._holding(request_id).pages

    def check(self) -> None:
        """Raise RuntimeError unless each reference is the index's or a request's, and
        free + cached + held by requests alone == total. O(total)."""
        self._index.check()
        in_index = self._index.references()
        held = Counter(page for holding in self._holdings.values() for page in holding.pages)
        self._pool.check(held + Counter(in_index))
        alone = len(held.keys() - in_index.keys())
        if self.free + self.cached + alone != self.total:
            raise RuntimeError(
                f"{self.free} free + {self.cached} cached + {alone} held are not {self.total} pages")
        for request_id, holding in self._holdings.items():
            if not in_index.keys() >= set(holding.pages[:holding.published]):
                raise RuntimeError(f"request {request_id!r} published pages that the index does not know")

    def _holding(self, request_id: RequestId) -> _Holding:
        try:
            return self._holdings[request_id]
        except KeyError:
            raise RuntimeError(f"request {request_id!r} has no pages: begin it first") from None

    def _allocate(self) -> PageId:
        page = self._pool.allocate()
        if page is None:
            raise RuntimeError("the prefix index evicted fewer pages than it promised")
        return page
