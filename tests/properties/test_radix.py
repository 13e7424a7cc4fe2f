"""The radix tree against a model that remembers each prefix by itself, over random calls.

The model keeps a page and a clock reading for each (tenant, prefix), and evicts by looking at all.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nearfield.cache.pages import PagePool
from nearfield.cache.radix import RadixIndex

SIZE = 2
TENANTS = st.sampled_from(["a", "b"])
PAGES = st.lists(st.sampled_from([(0, 0), (0, 1), (1, 0)]), max_size=7)
Prefix = tuple[str, tuple[int, ...]]


class RadixMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(24)
        self.index = RadixIndex(self.pool, SIZE)
        self.pages: dict[Prefix, int] = {}
        self.used: dict[Prefix, int] = {}
        self.clock = 0
        self.held: list[list[int]] = []

    def walk(self, tokens: tuple[int, ...], tenant: str) -> list[Prefix]:
        """The known prefixes of `tokens`, marked as used."""
        self.clock += 1
        prefixes = [(tenant, tokens[:end]) for end in range(SIZE, len(tokens) + 1, SIZE)]
        known = [prefix for prefix in prefixes if prefix in self.pages]
        self.used.update(dict.fromkeys(known, self.clock))
        return known

    @rule(pages=PAGES, rest=st.integers(0, 1), tenant=TENANTS, hold=st.booleans())
    def match(self, pages: list[tuple[int, int]], rest: int, tenant: str, hold: bool) -> None:
        tokens = (*(token for page in pages for token in page), *[1] * rest)
        found = self.index.match(tokens, tenant)
        assert found == [self.pages[prefix] for prefix in self.walk(tokens, tenant)]
        if hold and len(self.held) < 3:
            for page in found:
                self.pool.retain(page)
            self.held.append(found)

    @rule(pages=PAGES, tenant=TENANTS)
    def insert(self, pages: list[tuple[int, int]], tenant: str) -> None:
        if len(pages) > self.pool.free:
            return
        tokens = tuple(token for page in pages for token in page)
        own = [page for _ in pages if (page := self.pool.allocate()) is not None]
        known = self.walk(tokens, tenant)
        self.index.insert(tokens, own, tenant)
        for place, page in enumerate(own):
            prefix = (tenant, tokens[:(place + 1) * SIZE])
            assert self.pool.refcount(page) == (1 if prefix in known else 2)
            if prefix not in known:
                self.pages[prefix], self.used[prefix] = page, self.clock
            self.pool.release(page)

    @rule(choice=st.integers(0, 2))
    def let_go(self, choice: int) -> None:
        if self.held:
            for page in self.held.pop(choice % len(self.held)):
                self.pool.release(page)

    @rule(count=st.integers(0, 12))
    def evict(self, count: int) -> None:
        expected = min(count, self.index.evictable)
        gone = [self.oldest_leaf() for _ in range(expected)]
        assert self.index.evict(count) == expected
        assert all(self.pool.refcount(page) == 0 for page in gone)

    def oldest_leaf(self) -> int:
        held = {page for pages in self.held for page in pages}
        inner = {(tenant, tokens[:-SIZE]) for tenant, tokens in self.pages}
        leaves = [prefix for prefix, page in self.pages.items() if prefix not in inner and page not in held]
        oldest = min(leaves, key=lambda prefix: self.used[prefix])
        del self.used[oldest]
        return self.pages.pop(oldest)

    @invariant()
    def is_the_model(self) -> None:
        held = {page for pages in self.held for page in pages}
        self.index.check()
        assert self.index.references().keys() == set(self.pages.values())
        assert self.index.cached == len(self.pages) == self.pool.total - self.pool.free
        assert self.index.evictable == len(self.pages) - len(held)


TestRadix = RadixMachine.TestCase
TestRadix.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
