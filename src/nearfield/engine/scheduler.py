"""What each step computes: which requests run, which wait, and who gives way. Integers only.

A request waits, runs, perhaps gives way and waits again, and ends. The rules:

- First come, first served. A waiting request starts when the pages for all its known tokens are
  there, and one more for each request that runs already: so a prompt that has started never lacks
  a page, and a start does not at once push another request out.
- A step holds first one row of one token for each answer under way, then chunks of prompts within
  the pace's budget: those begun, then new ones.
- When an answer needs a page and there is none, the running request that arrived last gives way: its pages
  are released (what was computed stays cached until evicted) and it waits again, at its place in
  the order of arrival, with the tokens it has. Coming back it computes what is no longer cached, and goes on
  with the next new token. The request that arrived first never gives way, so all get done.
- A prompt of which another running request is computing a page at this moment waits for that page
  instead of computing it again; those behind it need not wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nearfield.cache.manager import CacheManager
from nearfield.cache.prefix import page_keys
from nearfield.core.errors import InvalidRequestError, QueueFullError
from nearfield.core.plan import Row, StepPlan
from nearfield.core.request import Request
from nearfield.core.types import RequestId, TokenId
from nearfield.engine.pace import Pace


@dataclass(slots=True, eq=False)
class Sequence:
    """A request under way. tokens: prompt and answer so far. computed: how many of them have K/V.

    cached_tokens: prompt tokens found in the cache when it first started; None before. `page_keys` names
    the prompt's whole pages (empty where nothing is shared); `awaits` is the page it waits for.
    """

    request: Request
    arrival: int
    page_keys: tuple[int, ...] = ()
    tokens: list[TokenId] = field(default_factory=list)
    computed: int = 0
    cached_tokens: int | None = None
    awaits: int | None = None

    @property
    def generated(self) -> list[TokenId]:
        return self.tokens[len(self.request.prompt_ids):]

    @property
    def remaining(self) -> int:
        """Known tokens still to compute; 1 while decoding."""
        return len(self.tokens) - self.computed


class Scheduler:
    """Plans steps over the pages of `cache`: `plan`, then run it, then `commit`, then `finish` what ended.

    At most `max_seqs` requests run and `max_waiting` wait. The caller refuses requests whose prompt
    and answer exceed cache.capacity; one that does not fit alone ends in RuntimeError.
    A score request gets rows with score=True that cover its prompt once, and no sample; the row whose end
    is the prompt's is its last, and the caller then finishes it. If it is in StepPlan.preempted, its
    rows start again from 0.
    """

    def __init__(self, cache: CacheManager, pace: Pace, *, max_seqs: int, max_waiting: int) -> None:
        self.preemptions = 0
        self._cache = cache
        self._pace = pace
        self._max_seqs = max_seqs
        self._max_waiting = max_waiting
        self._arrivals = 0
        self._waiting: dict[RequestId, Sequence] = {}  # in order of arrival
        self._running: dict[RequestId, Sequence] = {}
        self._in_flight: set[int] = set()  # keys of prompt pages that running requests have yet to compute

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def sequence(self, request_id: RequestId) -> Sequence:
        """The state of a request that was added and not finished. Raises KeyError for another."""
        return self._running.get(request_id) or self._waiting[request_id]

    def add(self, request: Request) -> None:
        """Queue a request. Raises QueueFullError, and InvalidRequestError for an id in use or no prompt."""
        name = request.request_id
        if name in self._running or name in self._waiting:
            raise InvalidRequestError(f"request_id {name!r} is in use; choose another", "request_id")
        if not request.prompt_ids:
            raise InvalidRequestError(f"the prompt of {name!r} is empty; give at least one token", "prompt")
        if len(self._waiting) >= self._max_waiting:
            raise QueueFullError(f"{self._max_waiting} requests are waiting already; try again later")
        self._arrivals += 1
        self._waiting[name] = Sequence(
            request, self._arrivals, self._page_keys(request), list(request.prompt_ids))

    def plan(self) -> StepPlan:
        """Decide the next step. Starts, extends and sets back requests; computes nothing."""
        rows: list[Row] = []
        preempted = self._plan_decodes(rows)
        budget = self._pace.prefill_budget(len(rows))
        budget = self._plan_chunks(rows, budget)
        if not preempted:
            self._start_waiting(rows, budget)
        return StepPlan(tuple(rows), tuple(preempted))

    def commit(self, plan: StepPlan, sampled: Mapping[RequestId, TokenId]) -> None:
        """Take in what a step brought: K/V of its rows, and the token `sampled` for each row with sample.

        Whole pages become shareable. Rows of requests that were finished since `plan` are passed over.
        """
        for row in plan.rows:
            seq = self._running.get(row.request_id)
            if seq is None:
                continue
            first = seq.computed // self._cache.page_size
            seq.computed = row.end
            self._cache.publish(row.request_id, seq.tokens, seq.computed)
            self._in_flight.difference_update(seq.page_keys[first:seq.computed // self._cache.page_size])
            if row.sample:
                seq.tokens.append(sampled[row.request_id])

    def finish(self, request_id: RequestId) -> None:
        """Forget a request, ended or cancelled, wherever it is; an unknown id is no error."""
        self._waiting.pop(request_id, None)
        if request_id in self._running:
            self._stop(self._running[request_id])

    def check(self) -> None:
        """Raise RuntimeError unless requests, pages and page keys are in order, down to the cache. O(all)."""
        self._cache.check()
        order = [seq.arrival for seq in self._waiting.values()]
        held = {name: len(self._cache.pages(name)) * self._cache.page_size for name in self._cache.requests}
        computing = {key for seq in self._running.values() for key in self._uncomputed_keys(seq)}
        faults = {
            "a request runs and waits": not self._running.keys().isdisjoint(self._waiting),
            "more requests run than may": len(self._running) > self._max_seqs,
            "requests wait out of order": order != sorted(order),
            "a waiting request has computed tokens": any(seq.computed for seq in self._waiting.values()),
            "those that run are not those with pages": held.keys() != self._running.keys(),
            "computed tokens have no page": any(
                seq.computed > held.get(name, 0) for name, seq in self._running.items()),
            "a page is awaited that nobody computes": not self._in_flight <= computing,
        }
        for fault, found in faults.items():
            if found:
                raise RuntimeError(f"the scheduler is out of order: {fault}")

    def _plan_decodes(self, rows: list[Row]) -> list[RequestId]:
        """Add a row for each running request with one token to compute; return those that gave way."""
        preempted: list[RequestId] = []
        for seq in self._by_arrival():
            if seq.request.request_id in self._running and seq.remaining == 1:
                preempted += self._make_room(seq)
                if seq.request.request_id in self._running:
                    rows.append(self._row(seq, 1))
        return preempted

    def _plan_chunks(self, rows: list[Row], budget: int) -> int:
        """Add chunks of the prompts that are under way; return what is left of the budget."""
        for seq in self._by_arrival():
            if seq.remaining > 1 and budget > 0:
                rows.append(self._row(seq, budget))
                budget -= len(rows[-1].token_ids)
        return budget

    def _start_waiting(self, rows: list[Row], budget: int) -> None:
        """Start waiting requests in order of arrival, until one lacks pages, and add their first chunks."""
        for seq in tuple(self._waiting.values()):
            if budget <= 0 or len(self._running) >= self._max_seqs:
                return
            if self._awaits_page(seq):
                continue
            if not self._start(seq):
                return
            rows.append(self._row(seq, budget))
            budget -= len(rows[-1].token_ids)

    def _start(self, seq: Sequence) -> bool:
        """Move a waiting request to the running ones if there are pages for all its known tokens."""
        name = seq.request.request_id
        matched = self._cache.begin(name, seq.tokens, seq.request.tenant, share=not seq.request.score)
        if not self._cache.extend(name, len(seq.tokens), spare=len(self._running)):
            self._cache.release(name)
            if self._running:
                return False
            raise RuntimeError(f"request {name!r} has {len(seq.tokens)} tokens and the cache holds "
                               f"{self._cache.capacity}: it should have been refused")
        seq.computed = matched
        if seq.cached_tokens is None:
            seq.cached_tokens = matched
        self._in_flight.update(self._uncomputed_keys(seq))
        self._running[name] = self._waiting.pop(name)
        return True

    def _make_room(self, seq: Sequence) -> list[RequestId]:
        """Get the page for a request's next token, setting back the last arrivals until there is one.

        Returns those set back; `seq` is among them if it was the last to arrive.
        """
        preempted: list[RequestId] = []
        name = seq.request.request_id
        while name in self._running and not self._cache.extend(name, seq.computed + 1):
            victim = self._by_arrival()[-1]
            self._preempt(victim)
            preempted.append(victim.request.request_id)
        return preempted

    def _preempt(self, seq: Sequence) -> None:
        self._stop(seq)
        seq.computed = 0
        self.preemptions += 1
        waiting = [*self._waiting.values(), seq]
        waiting.sort(key=lambda other: other.arrival)
        self._waiting = {other.request.request_id: other for other in waiting}

    def _stop(self, seq: Sequence) -> None:
        self._in_flight.difference_update(self._uncomputed_keys(seq))
        self._cache.release(seq.request.request_id)
        del self._running[seq.request.request_id]

    def _row(self, seq: Sequence, limit: int) -> Row:
        """The row that computes up to `limit` of the tokens that remain."""
        tokens = tuple(seq.tokens[seq.computed:seq.computed + limit])
        request = seq.request
        at_end = len(tokens) == seq.remaining
        return Row(request.request_id, tokens, seq.computed, self._cache.pages(request.request_id),
                   sample=at_end and not request.score, score=request.score)

    def _awaits_page(self, seq: Sequence) -> bool:
        """Whether a running request is computing a page of this prompt; remembers the last such page,
        which is ready after those before it, so that asking again is O(1) until it is."""
        if seq.awaits not in self._in_flight:
            seq.awaits = next((key for key in reversed(seq.page_keys) if key in self._in_flight), None)
        return seq.awaits is not None

    def _page_keys(self, request: Request) -> tuple[int, ...]:
        if request.score or not self._cache.shares:
            return ()
        return page_keys(request.prompt_ids, request.tenant, self._cache.page_size)

    def _uncomputed_keys(self, seq: Sequence) -> tuple[int, ...]:
        return seq.page_keys[seq.computed // self._cache.page_size:]

    def _by_arrival(self) -> list[Sequence]:
        return sorted(self._running.values(), key=lambda seq: seq.arrival)
