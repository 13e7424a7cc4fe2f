"""Random traces through the scheduler: whatever arrives, is cancelled or gives way, each answer is the one
that the request would have had alone. The simulation checks every plan, row and invariant.

Hypothesis finds and shrinks the short traces; the long ones come from seeded dice.
"""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nearfield.core.types import TokenId
from tests.simulation import Simulation, request

PAGES, SIZE = 10, 3
LONGEST = PAGES * SIZE
PIECES = ((0,) * 3, (0,) * 6, (0, 1) * 5, (1, 1, 0), (1,), (0, 0, 1, 1, 0, 1, 0))
PROMPTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(
    lambda pieces: tuple(token for piece in pieces for token in piece)[:LONGEST - 1])


class SchedulerMachine(RuleBasedStateMachine):
    """Ten pages of three tokens for requests of up to thirty: pages are always short."""

    @initialize(prefix=st.sampled_from([True, True, False]), step_tokens=st.sampled_from([1, 4, 9, 64]),
                max_seqs=st.integers(1, 5))
    def start(self, prefix: bool, step_tokens: int, max_seqs: int) -> None:
        self.sim = Simulation(PAGES, SIZE, prefix=prefix, step_tokens=step_tokens, max_seqs=max_seqs)

    @rule(prompt=PROMPTS, answer=st.integers(1, 20), tenant=st.sampled_from("aab"),
          score=st.sampled_from([False, False, False, True]))
    def add(self, prompt: tuple[TokenId, ...], answer: int, tenant: str, score: bool) -> None:
        name = f"r{len(self.sim.requests)}"
        answer = min(answer, LONGEST - len(prompt))
        self.sim.add(request(name, prompt, answer=answer, tenant=tenant, score=score))

    @rule(count=st.integers(1, 4))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.sim.step()

    @precondition(lambda self: self.sim.live)
    @rule(choice=st.integers(0, 99), between=st.booleans())
    def cancel(self, choice: int, between: bool) -> None:
        name = self.sim.live[choice % len(self.sim.live)]
        if between:
            self.sim.step(cancel=name)
        else:
            self.sim.cancel(name)

    def teardown(self) -> None:
        if hasattr(self, "sim"):
            self.sim.run()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


ASKED = st.tuples(PROMPTS, st.integers(1, 12))


@settings(max_examples=40, deadline=None)
@given(st.lists(ASKED, min_size=2, max_size=8), st.integers(LONGEST, 2 * LONGEST))
def test_sharing_changes_no_answer_and_saves_work(
        asked: list[tuple[tuple[TokenId, ...], int]], room: int) -> None:
    sims = [Simulation(room // SIZE, SIZE, prefix=prefix, step_tokens=7) for prefix in (True, False)]
    for sim in sims:
        for i, (prompt, answer) in enumerate(asked):
            sim.add(request(f"r{i}", prompt, answer=min(answer, LONGEST - len(prompt))))
        sim.run()
    sharing, alone = sims
    assert sharing.answers == alone.answers
    assert all(count == 0 for count in alone.cached.values())
    if not sharing.scheduler.preemptions and not alone.scheduler.preemptions:
        saved = sum(sharing.cached.values())
        assert sum(sharing.computed.values()) == sum(alone.computed.values()) - saved


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 200))])
def test_long_traces_under_pressure(seed: int, prefix: bool) -> None:
    dice = Random(seed)
    sim = Simulation(PAGES, SIZE, prefix=prefix, step_tokens=dice.choice([3, 8, 32]), max_seqs=5)
    steps = 0
    while len(sim.requests) < 150 or sim.live:
        if len(sim.requests) < 150 and sim.scheduler.waiting < 4 and dice.random() < 0.4:
            prompt = sum(dice.choices(PIECES, k=dice.randint(1, 3)), ())[:LONGEST - 1]
            sim.add(request(f"r{len(sim.requests)}", prompt, tenant=dice.choice("aab"),
                            answer=dice.randint(1, LONGEST - len(prompt)), score=dice.random() < 0.1))
        cancelled = dice.choice(sim.live) if sim.live and dice.random() < 0.02 else None
        sim.step(cancel=cancelled)
        steps += 1
    sim.run()
    assert steps > 500 and sim.scheduler.preemptions > 10
    assert prefix == any(sim.cached.values())
