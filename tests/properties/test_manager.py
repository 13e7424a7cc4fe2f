"""The manager over random requests: promises kept, content right, every page explained after each call."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nearfield.cache.manager import CacheManager

SIZE, TOTAL = 2, 12


class ManagerMachine(RuleBasedStateMachine):
    """Requests compute their tokens a few at a time; `memory` holds what was written in each page."""

    @initialize(prefix=st.booleans())
    def start(self, prefix: bool) -> None:
        self.cache = CacheManager(TOTAL, SIZE, prefix=prefix)
        self.tokens: dict[str, list[int]] = {}
        self.done: dict[str, int] = {}
        self.tenant: dict[str, str] = {}
        self.memory: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = {}
        self.count = 0

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=14), tenant=st.sampled_from("ab"),
          share=st.booleans())
    def begin(self, tokens: list[int], tenant: str, share: bool) -> None:
        self.count += 1
        name, free = f"r{self.count}", self.cache.free
        matched = self.cache.begin(name, tokens, tenant, share=share)
        assert 0 <= matched < len(tokens) and matched % SIZE == 0
        assert len(self.cache.pages(name)) * SIZE == matched
        assert self.cache.free == free
        assert matched == 0 or (share and self.cache.shares)
        self.tokens[name], self.done[name], self.tenant[name] = tokens, matched, tenant

    @precondition(lambda self: self.tokens)
    @rule(choice=st.integers(0, 99), length=st.integers(1, 6), spare=st.integers(0, 3))
    def compute(self, choice: int, length: int, spare: int) -> None:
        name = sorted(self.tokens)[choice % len(self.tokens)]
        end = min(self.done[name] + length, len(self.tokens[name]))
        before = self.cache.free, self.cache.cached, self.cache.pages(name)
        if not self.cache.extend(name, end, spare=spare):
            assert (self.cache.free, self.cache.cached, self.cache.pages(name)) == before
            return
        for position in range(self.done[name], end):
            page = self.cache.pages(name)[position // SIZE]
            assert sum(page in self.cache.pages(other) for other in self.tokens) == 1
            self.memory[page, position % SIZE] = self.content(name, position)
        self.cache.publish(name, self.tokens[name], end)
        self.done[name] = end

    @precondition(lambda self: self.tokens)
    @rule(choice=st.integers(0, 99))
    def release(self, choice: int) -> None:
        name = sorted(self.tokens)[choice % len(self.tokens)]
        self.cache.release(name)
        del self.tokens[name], self.done[name]

    def content(self, name: str, position: int) -> tuple[str, tuple[int, ...]]:
        return self.tenant[name], tuple(self.tokens[name][:position + 1])

    @invariant()
    def every_request_reads_its_own_past(self) -> None:
        self.cache.check()
        for name, done in self.done.items():
            pages = self.cache.pages(name)
            for position in range(done):
                assert self.memory[pages[position // SIZE], position % SIZE] == self.content(name, position)

    def teardown(self) -> None:
        for name in list(self.tokens):
            self.cache.release(name)
        self.cache.check()
        assert self.cache.free + self.cache.cached == TOTAL


TestManager = ManagerMachine.TestCase
TestManager.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
