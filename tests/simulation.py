"""A scheduler and cache under an engine whose model is a hash: what integers alone can prove.

The K/V of a position is a hash of the tenant and of all tokens up to it, kept by page and place. Each
row must find exactly its own past in its pages, so that any page handed out wrongly, reused too
early or shared across tenants shows at once. The next token is a hash of all tokens before, so a
request's answer is known beforehand, whatever shares the machine with it.
"""

from collections import Counter
from itertools import accumulate

from nearfield.cache.manager import CacheManager
from nearfield.core.plan import Row, StepPlan
from nearfield.core.request import Request, SamplingParams
from nearfield.core.types import PageId, RequestId, TokenId
from nearfield.engine.pace import Pace
from nearfield.engine.scheduler import Scheduler

VOCAB = 2  # small, so that different requests often say the same


def request(name: RequestId, prompt: tuple[TokenId, ...], *, answer: int = 1, tenant: str = "",
            score: bool = False) -> Request:
    return Request(name, prompt, SamplingParams(max_tokens=answer), tenant=tenant, score=score)


def answer_to(asked: Request) -> list[TokenId]:
    """The tokens that the model of this simulation gives, computed without any engine."""
    tokens = list(asked.prompt_ids)
    for _ in range(0 if asked.score else asked.params.max_tokens or 0):
        tokens.append(_next_token(tokens))
    return tokens[len(asked.prompt_ids):]


def _next_token(tokens: list[TokenId]) -> TokenId:
    return hash(tuple(tokens)) % VOCAB


def _contents(tenant: str, tokens: list[TokenId]) -> list[int]:
    """The K/V of each position."""
    return list(accumulate(tokens, lambda past, token: hash((past, token)), initial=hash(tenant)))[1:]


class Simulation:
    """Steps requests to their end and checks every row, plan and invariant on the way."""

    def __init__(self, pages: int, page_size: int, *, prefix: bool = True, step_tokens: int = 16,
                 max_seqs: int = 4, max_waiting: int = 1000) -> None:
        self.cache = CacheManager(pages, page_size, prefix=prefix)
        self.scheduler = Scheduler(self.cache, Pace(step_tokens), max_seqs=max_seqs, max_waiting=max_waiting)
        self.requests: dict[RequestId, Request] = {}
        self.answers: dict[RequestId, list[TokenId]] = {}
        self.cached: dict[RequestId, int] = {}
        self.computed: Counter[RequestId] = Counter()
        self.started: list[RequestId] = []
        self.ended: list[RequestId] = []
        self._step_tokens = step_tokens
        self._max_seqs = max_seqs
        self._memory: dict[tuple[PageId, int], int] = {}
        self._scored: dict[RequestId, int] = {}

    @property
    def live(self) -> list[RequestId]:
        return [name for name in self.requests if name not in self.ended]

    def add(self, asked: Request) -> None:
        self.scheduler.add(asked)
        self.requests[asked.request_id] = asked
        self.answers[asked.request_id] = []

    def cancel(self, name: RequestId) -> None:
        self.scheduler.finish(name)
        self.ended.append(name)

    def step(self, cancel: RequestId | None = None) -> StepPlan:
        """One step of an engine. `cancel` ends a request between plan and commit."""
        plan = self.scheduler.plan()
        self.scheduler.check()
        self._check_plan(plan)
        for name in plan.preempted:
            self._scored.pop(name, None)
        for row in plan.rows:
            self._check_past(row)
        for row in plan.rows:
            self._write(row)
        sampled = {row.request_id: _next_token(self.scheduler.sequence(row.request_id).tokens)
                   for row in plan.rows if row.sample}
        if cancel is not None:
            self.cancel(cancel)
        self.scheduler.commit(plan, sampled)
        self._take_in(plan, sampled)
        self.scheduler.check()
        return plan

    def run(self, limit: int = 10_000) -> None:
        """Step until every request has ended, and see that its answer is right and no page is lost."""
        steps = 0
        while self.live:
            assert self.step().rows, f"nothing to do, yet {self.live} have not ended"
            steps += 1
            assert steps < limit, f"{self.live} do not end"
        assert (self.scheduler.running, self.scheduler.waiting) == (0, 0)
        assert self.cache.free + self.cache.cached == self.cache.total

    def _check_plan(self, plan: StepPlan) -> None:
        names = [row.request_id for row in plan.rows]
        assert len(set(names)) == len(names) <= self._max_seqs
        assert not set(names) & set(plan.preempted)
        decodes = sum(len(row.token_ids) == 1 for row in plan.rows)
        assert plan.num_tokens <= max(self._step_tokens, decodes + 1)
        written = Counter(page for row in plan.rows for page in self._written_pages(row))
        readers = Counter(page for name in self.cache.requests for page in self.cache.pages(name))
        assert all(count == 1 and readers[page] == 1 for page, count in written.items())

    def _check_past(self, row: Row) -> None:
        asked, seq = self.requests[row.request_id], self.scheduler.sequence(row.request_id)
        assert list(row.token_ids) == seq.tokens[row.start:row.end] != []
        assert row.sample == (row.end == len(seq.tokens) and not asked.score)
        assert row.score == asked.score
        assert len(row.pages) * self.cache.page_size >= row.end
        past = [self._memory.get(self._slot(row, position)) for position in range(row.start)]
        assert past == _contents(asked.tenant, seq.tokens)[:row.start], f"{row} reads what is not its past"

    def _write(self, row: Row) -> None:
        tokens = self.scheduler.sequence(row.request_id).tokens
        contents = _contents(self.requests[row.request_id].tenant, tokens)
        for position in range(row.start, row.end):
            self._memory[self._slot(row, position)] = contents[position]
        self.computed[row.request_id] += len(row.token_ids)
        if row.request_id not in self.started:
            self.started.append(row.request_id)

    def _take_in(self, plan: StepPlan, sampled: dict[RequestId, TokenId]) -> None:
        for row in plan.rows:
            name = row.request_id
            if name in self.ended:
                continue
            seq = self.scheduler.sequence(name)
            if row.score:
                assert row.start == self._scored.get(name, 0)
                self._scored[name] = row.end
            if row.sample:
                self.answers[name].append(sampled[name])
            assert seq.cached_tokens == self.cached.setdefault(name, row.start)
            assert seq.generated == self.answers[name]
            self._end_if_done(name)

    def _end_if_done(self, name: RequestId) -> None:
        asked = self.requests[name]
        expected = answer_to(asked)
        assert self.answers[name] == expected[:len(self.answers[name])]
        scored = not asked.score or self._scored.get(name) == len(asked.prompt_ids)
        if scored and self.answers[name] == expected:
            self.cancel(name)

    def _slot(self, row: Row, position: int) -> tuple[PageId, int]:
        return row.pages[position // self.cache.page_size], position % self.cache.page_size

    def _written_pages(self, row: Row) -> tuple[PageId, ...]:
        size = self.cache.page_size
        return row.pages[row.start // size:-(-row.end // size)]
