"""The scheduler's rules, one by one, on traces small enough to follow by hand."""

import pytest

from nearfield.cache.manager import CacheManager
from nearfield.core.errors import InvalidRequestError, QueueFullError
from nearfield.core.plan import Row, StepPlan
from nearfield.engine.pace import Pace
from nearfield.engine.scheduler import Scheduler
from tests.simulation import Simulation, answer_to, request


def spans(plan: StepPlan) -> dict[str, tuple[int, int]]:
    return {row.request_id: (row.start, row.end) for row in plan.rows}


def only_row(plan: StepPlan) -> Row:
    [row] = plan.rows
    return row


def test_a_long_prompt_is_chunked_then_answered() -> None:
    sim = Simulation(8, 4, step_tokens=5)
    sim.add(request("a", tuple(range(12)), answer=3))
    rows = [only_row(sim.step()) for _ in range(5)]
    assert [(row.start, row.end, row.sample) for row in rows] == [
        (0, 5, False), (5, 10, False), (10, 12, True), (12, 13, True), (13, 14, True)]
    assert sim.answers["a"] == answer_to(sim.requests["a"])
    sim.run()


def test_answers_come_first_then_prompts_under_way_then_new_ones() -> None:
    sim = Simulation(64, 4, step_tokens=8)
    sim.add(request("a", (1, 2), answer=9))
    sim.step()
    sim.add(request("b", tuple(range(10, 30))))
    sim.add(request("c", (3, 4, 5)))
    assert spans(sim.step()) == {"a": (2, 3), "b": (0, 7)}
    assert spans(sim.step()) == {"a": (3, 4), "b": (7, 14)}
    last = sim.step()
    assert list(spans(last).items()) == [("a", (4, 5)), ("b", (14, 20)), ("c", (0, 1))]
    assert [row.sample for row in last.rows] == [True, True, False]
    sim.run()


def test_prompts_progress_however_many_answers_run() -> None:
    sim = Simulation(64, 4, step_tokens=2, max_seqs=8)
    for name in "abcd":
        sim.add(request(name, (ord(name),), answer=20))
    while sim.scheduler.waiting:
        sim.step()
    sim.add(request("e", (1, 2, 3)))
    assert spans(sim.step())["e"] == (0, 1)
    sim.run()


def test_first_come_first_served_within_max_seqs() -> None:
    sim = Simulation(64, 4, max_seqs=2, step_tokens=64)
    names = [f"r{i}" for i in range(7)]
    for i, name in enumerate(names):
        sim.add(request(name, (i, i), answer=1 + i % 3))
    sim.step()
    assert (sim.scheduler.running + sim.scheduler.waiting, sim.scheduler.waiting) == (6, 5)
    sim.run()
    assert sim.started == names


def test_agents_sharing_a_prefix_compute_it_once() -> None:
    sim = Simulation(1024, 16, step_tokens=512, max_seqs=64)
    shared = tuple(range(1024))
    for i in range(16):
        sim.add(request(f"r{i}", shared + (5000 + i,) * 64, answer=1))
    sim.run()
    assert sum(sim.computed.values()) == 1024 + 16 * 64
    assert sim.cached == {f"r{i}": 1024 if i else 0 for i in range(16)}
    assert sim.started == [f"r{i}" for i in range(16)]


def test_answers_to_one_prompt_compute_it_once() -> None:
    sim = Simulation(64, 4, step_tokens=64, max_seqs=8)
    prompt = tuple(range(14))
    for i in range(4):
        sim.add(request(f"r{i}", prompt, answer=6))
    sim.run()
    assert sum(sim.computed.values()) == (14 + 3 * 2) + 4 * 5


def test_others_pass_a_request_that_awaits_a_page() -> None:
    sim = Simulation(64, 4, step_tokens=18)
    sim.add(request("a", (1,) * 16, answer=9))
    sim.add(request("b", (1,) * 16 + (2,)))
    sim.add(request("c", (3,) * 4))
    assert spans(sim.step()) == {"a": (0, 16), "c": (0, 2)}
    assert spans(sim.step()) == {"a": (16, 17), "c": (2, 4), "b": (16, 17)}
    sim.run()


def test_nobody_passes_a_request_that_lacks_pages() -> None:
    sim = Simulation(8, 4, step_tokens=64)
    for i, (name, length) in enumerate([("a", 17), ("big", 20), ("small", 1)]):
        sim.add(request(name, (i,) * length, answer=4))
    assert spans(sim.step()) == {"a": (0, 17)}
    assert spans(sim.step()) == {"a": (17, 18)}
    sim.run()
    assert sim.started == ["a", "big", "small"]


def test_a_plan_that_was_not_carried_out_is_made_anew() -> None:
    class Shrinking(Pace):
        def prefill_budget(self, decode_rows: int) -> int:
            return budgets.pop()

    budgets = [9, 5, 8]
    scheduler = Scheduler(CacheManager(8, 4), Shrinking(1), max_seqs=4, max_waiting=4)
    for i, name in enumerate("ab"):
        scheduler.add(request(name, (i,) * 5))
    assert spans(scheduler.plan()) == {"a": (0, 5), "b": (0, 3)}
    assert spans(scheduler.plan()) == {"a": (0, 5)}
    assert spans(scheduler.plan()) == {"a": (0, 5), "b": (0, 4)}
    scheduler.check()


def test_tenants_do_not_wait_for_each_other() -> None:
    sim = Simulation(64, 4, step_tokens=64)
    sim.add(request("a", (1,) * 8, tenant="x"))
    sim.add(request("b", (1,) * 8, tenant="y"))
    sim.add(request("c", (1,) * 8, tenant="y"))
    assert spans(sim.step()) == {"a": (0, 8), "b": (0, 8)}
    sim.run()
    assert sim.cached == {"a": 0, "b": 0, "c": 4}


def test_without_prefix_nobody_waits_for_a_page() -> None:
    sim = Simulation(64, 4, step_tokens=64, prefix=False)
    for name in "abc":
        sim.add(request(name, (1,) * 8))
    assert spans(sim.step()) == dict.fromkeys("abc", (0, 8))
    sim.run()


def test_a_cancelled_prompt_no_longer_keeps_others_waiting() -> None:
    sim = Simulation(64, 4, step_tokens=4)
    sim.add(request("a", (1,) * 16))
    sim.add(request("b", (1,) * 16 + (2,)))
    sim.step()
    sim.cancel("a")
    assert spans(sim.step()) == {"b": (4, 8)}
    sim.run()


def test_a_conversation_finds_its_own_answers() -> None:
    sim = Simulation(64, 4, step_tokens=64)
    sim.add(request("a", tuple(range(10)), answer=11))
    sim.run()
    history = (*range(10), *sim.answers["a"])
    sim.add(request("b", (*history, 9), answer=2))
    sim.run()
    assert sim.cached["b"] == 20  # the last token of an answer is never computed


def test_the_last_to_arrive_gives_way_and_loses_nothing() -> None:
    sim = Simulation(6, 4, step_tokens=64)
    sim.add(request("a", (1,) * 7, answer=13))
    sim.add(request("b", (2,) * 7, answer=13))
    plans: list[StepPlan] = []
    while not any(plan.preempted for plan in plans):
        plans.append(sim.step())
    assert plans[-1].preempted == ("b",)
    assert list(spans(plans[-1])) == ["a"]
    assert (sim.scheduler.running, sim.scheduler.waiting, sim.scheduler.preemptions) == (1, 1, 1)
    said = list(sim.answers["b"])
    assert said and sim.scheduler.sequence("b").generated == said
    sim.run()
    assert sim.answers["b"] == answer_to(sim.requests["b"])
    assert sim.ended == ["a", "b"]
    assert sim.scheduler.preemptions == 1
    assert sim.cached["b"] == 0  # as it was when it first started


def test_who_gave_way_comes_back_before_later_arrivals() -> None:
    sim = Simulation(6, 4, step_tokens=64)
    for i, name in enumerate("abc"):
        sim.add(request(name, (i,) * 7, answer=13))
    while not sim.scheduler.preemptions:
        plan = sim.step()
    assert plan.preempted == ("b",)
    assert list(sim.scheduler._waiting) == ["b", "c"]
    sim.run()
    assert sim.ended == ["a", "b", "c"]


def test_a_start_leaves_a_page_for_each_that_runs() -> None:
    sim = Simulation(4, 4, step_tokens=64)
    sim.add(request("a", (1,) * 8, answer=2))
    sim.step()
    sim.add(request("b", (2,) * 8))
    assert spans(sim.step()) == {"a": (8, 9)}
    sim.run()
    assert sim.scheduler.preemptions == 0


def test_one_request_may_fill_the_cache() -> None:
    sim = Simulation(4, 4, step_tokens=3)
    sim.add(request("a", (1,) * 9, answer=7))
    sim.add(request("b", (2,) * 15, answer=1))
    sim.run()
    assert sim.scheduler.preemptions == 0


@pytest.mark.parametrize(("prompt", "answer"), [(17, 1), (9, 10)])
def test_a_request_beyond_the_cache_is_an_error_not_a_loop(prompt: int, answer: int) -> None:
    sim = Simulation(4, 4, step_tokens=64)
    sim.add(request("a", (1,) * prompt, answer=answer))
    with pytest.raises(RuntimeError, match="request 'a' has 17 tokens and the cache holds 16"):
        for _ in range(20):
            sim.step()


def test_score_rows_cover_the_prompt_once_and_are_not_shared() -> None:
    sim = Simulation(16, 4, step_tokens=6)
    prompt = tuple(range(10))
    sim.add(request("warm", prompt))
    sim.run()
    sim.add(request("a", prompt, score=True))
    plans = [sim.step(), sim.step()]
    assert [spans(plan)["a"] for plan in plans] == [(0, 6), (6, 10)]
    assert all(row.score and not row.sample for plan in plans for row in plan.rows)
    assert sim.ended == ["warm", "a"] and sim.cache.cached == 2


def test_cancel_while_waiting_running_and_twice() -> None:
    sim = Simulation(16, 4, max_seqs=1)
    for name in "abc":
        sim.add(request(name, (ord(name),) * 4, answer=5))
    sim.step()
    sim.cancel("b")
    assert (sim.scheduler.running, sim.scheduler.waiting) == (1, 1)
    sim.scheduler.finish("b")
    sim.cancel("a")
    assert (sim.scheduler.running, sim.scheduler.waiting) == (0, 1)
    sim.run()
    assert sim.started == ["a", "c"]


def test_cancel_between_plan_and_commit() -> None:
    sim = Simulation(16, 4)
    sim.add(request("a", (1,) * 4, answer=5))
    sim.add(request("b", (2,) * 4, answer=5))
    sim.step(cancel="a")
    assert sim.scheduler.running == 1
    sim.run()


def test_an_id_can_be_used_again_before_the_old_step_is_committed() -> None:
    sim = Simulation(16, 4)
    sim.add(request("a", (1,) * 4, answer=5))
    plan = sim.scheduler.plan()
    sim.scheduler.finish("a")
    sim.scheduler.add(request("a", (2,) * 4))
    sim.scheduler.commit(plan, {"a": 9})
    assert sim.scheduler.sequence("a").tokens == [2, 2, 2, 2]
    sim.scheduler.check()


def test_what_can_not_be_queued() -> None:
    sim = Simulation(16, 4, max_seqs=1, max_waiting=2)
    sim.add(request("a", (1,)))
    with pytest.raises(InvalidRequestError, match="'a' is in use") as waiting:
        sim.add(request("a", (1,)))
    assert waiting.value.param == "request_id"
    with pytest.raises(InvalidRequestError, match="prompt of 'b' is empty"):
        sim.add(request("b", ()))
    sim.add(request("b", (2,)))
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        sim.add(request("c", (3,)))
    sim.step()
    sim.add(request("c", (3,)))
    sim.run()
    sim.add(request("a", (1,)))
    with pytest.raises(KeyError):
        sim.scheduler.sequence("c")


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert Simulation(4, 4).step() == StepPlan(())


def test_check_notices_a_request_without_pages() -> None:
    sim = Simulation(16, 4)
    sim.add(request("a", (1,) * 4, answer=5))
    sim.step()
    sim.cache.release("a")
    with pytest.raises(RuntimeError, match="those that run are not those with pages"):
        sim.scheduler.check()
