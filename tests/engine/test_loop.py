"""The engine's thread: answers arrive, cancellations count, failures stay with their requests."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch

from nearfield.core.config import EngineConfig
from nearfield.core.errors import EngineStoppedError, InvalidRequestError, NearfieldError, QueueFullError
from nearfield.core.request import Output, Request, SamplingParams
from nearfield.core.types import FinishReason
from nearfield.engine.build import Loaded, load_engine
from nearfield.engine.loop import EngineLoop
from nearfield.models.decoder import Decoder

PARAMS = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
WAIT = 60.0


class Inbox:
    """Collects what a request gets."""

    def __init__(self) -> None:
        self.queue: Queue[Output | NearfieldError] = Queue()

    def __call__(self, message: Output | NearfieldError) -> None:
        self.queue.put(message)

    def all(self) -> list[Output | NearfieldError]:
        got: list[Output | NearfieldError] = []
        while not got or (isinstance(got[-1], Output) and got[-1].finish_reason is None):
            got.append(self.queue.get(timeout=WAIT))
        return got


@pytest.fixture
def loop(loaded_pocket: Loaded) -> Iterator[EngineLoop]:
    loop = EngineLoop(loaded_pocket.engine)
    loop.start()
    yield loop
    loop.stop()
    assert not loop.alive and not loaded_pocket.engine.has_work
    loaded_pocket.engine.check()


def request(name: str, **change: Any) -> Request:
    return Request(name, tuple(range(10, 50)), replace(PARAMS, **change))


def test_many_threads_submit_and_all_are_answered(loop: EngineLoop) -> None:
    boxes = {f"{t}-{i}": Inbox() for t in range(4) for i in range(5)}

    def submit(t: int) -> None:
        for i in range(5):
            loop.submit(request(f"{t}-{i}"), boxes[f"{t}-{i}"])

    threads = [threading.Thread(target=submit, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = {tuple(token for o in box.all() if isinstance(o, Output) for token in o.token_ids)
               for box in boxes.values()}
    assert len(answers) == 1 and len(answers.pop()) == 8


def test_a_cancelled_request_is_heard_of_no_more(loop: EngineLoop) -> None:
    box, other = Inbox(), Inbox()
    loop.submit(request("long", max_tokens=1500), box)
    box.queue.get(timeout=WAIT)
    loop.cancel("long")
    loop.cancel("never there")
    loop.submit(request("next"), other)
    assert isinstance(other.all()[-1], Output)
    seen = box.queue.qsize()
    loop.submit(request("last"), other)
    other.all()
    assert box.queue.qsize() == seen < 1400
    assert loop.stats().running == 0


def test_bad_requests_are_refused_in_the_callers_thread(loop: EngineLoop) -> None:
    with pytest.raises(InvalidRequestError, match="outside the vocabulary"):
        loop.submit(replace(request("r"), prompt_ids=(10**8,)), Inbox())


def test_a_request_id_in_use_is_refused_and_harms_nobody(loop: EngineLoop) -> None:
    first = Inbox()
    loop.submit(request("r", max_tokens=200), first)
    first.queue.get(timeout=WAIT)
    with pytest.raises(InvalidRequestError, match="in use"):
        loop.submit(request("r"), Inbox())
    last = first.all()[-1]
    assert isinstance(last, Output) and last.completion_tokens == 200


def test_a_failing_receiver_costs_only_its_own_request(loop: EngineLoop) -> None:
    def broken(message: Output | NearfieldError) -> None:
        raise OSError("the receiver is gone")

    box = Inbox()
    loop.submit(request("broken", max_tokens=1500), broken)
    loop.submit(request("fine"), box)
    assert isinstance(box.all()[-1], Output)
    assert loop.alive


def test_a_failing_step_fails_its_requests_and_not_the_engine(
        loop: EngineLoop, loaded_pocket: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Output]:
        raise RuntimeError("injected")

    box, after = Inbox(), Inbox()
    monkeypatch.setattr(loaded_pocket.engine, "step", fail)
    loop.submit(request("r"), box)
    error = box.all()[-1]
    assert isinstance(error, NearfieldError) and "injected" not in str(error)
    monkeypatch.undo()
    loop.submit(request("r"), after)
    assert isinstance(after.all()[-1], Output)


def test_a_request_that_arrives_during_a_failing_step_is_served(
        loop: EngineLoop, loaded_pocket: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    real, first, late = loaded_pocket.engine.step, Inbox(), Inbox()

    def fail() -> list[Output]:
        monkeypatch.setattr(loaded_pocket.engine, "step", real)
        loop.submit(request("late"), late)
        raise RuntimeError("injected")

    monkeypatch.setattr(loaded_pocket.engine, "step", fail)
    loop.submit(request("first"), first)
    assert isinstance(first.all()[-1], NearfieldError)
    last = late.all()[-1]
    assert isinstance(last, Output) and last.completion_tokens == 8
    assert loop.drain(WAIT)


def test_a_bug_in_add_fails_its_request_and_not_the_thread(
        loop: EngineLoop, loaded_pocket: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Request) -> None:
        raise TypeError("injected")

    box, after = Inbox(), Inbox()
    with monkeypatch.context() as patched:
        patched.setattr(loaded_pocket.engine, "add", fail)
        loop.submit(request("r"), box)
        assert isinstance(box.all()[-1], NearfieldError)
    loop.submit(request("r"), after)
    assert isinstance(after.all()[-1], Output)


def test_if_the_thread_dies_nobody_waits_for_it(
        loop: EngineLoop, loaded_pocket: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request_id: str) -> None:
        raise KeyboardInterrupt

    box = Inbox()
    loop.submit(request("r", max_tokens=1500), box)
    box.queue.get(timeout=WAIT)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with monkeypatch.context() as patched:
        patched.setattr(loaded_pocket.engine, "cancel", fail)
        loop.cancel("r")
        assert isinstance(box.all()[-1], EngineStoppedError)
    with pytest.raises(EngineStoppedError):
        loop.submit(request("s"), Inbox())
    loaded_pocket.engine.cancel("r")


def test_numbers_that_overflow_are_told(
        loop: EngineLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "logits", lambda model, hidden: torch.full((len(hidden), 2048), float("nan")))
    box = Inbox()
    loop.submit(request("r"), box)
    error = box.all()[-1]
    assert isinstance(error, NearfieldError) and "overflowed" in str(error)


def test_a_full_queue_is_told_in_the_callers_thread(pocket: Path) -> None:
    config = EngineConfig(dtype="fp32", kv_memory=16 << 20, max_seqs=1, max_waiting=1)
    loop = EngineLoop(load_engine(pocket, config).engine)
    loop.start()
    box = Inbox()
    loop.submit(request("runs", max_tokens=1500), box)
    box.queue.get(timeout=WAIT)
    loop.submit(request("waits"), Inbox())
    with pytest.raises(QueueFullError, match="1 requests are waiting"):
        loop.submit(request("one too many"), Inbox())
    loop.stop()


def test_drain_finishes_what_runs_and_refuses_the_rest(loop: EngineLoop) -> None:
    box = Inbox()
    loop.submit(request("r", max_tokens=100), box)
    assert loop.drain(WAIT)
    assert loop.draining
    last = box.all()[-1]
    assert isinstance(last, Output) and last.finish_reason is FinishReason.LENGTH
    with pytest.raises(EngineStoppedError):
        loop.submit(request("s"), Inbox())


def test_stop_tells_those_left_behind(loop: EngineLoop) -> None:
    box = Inbox()
    loop.submit(request("r", max_tokens=1500), box)
    box.queue.get(timeout=WAIT)
    assert not loop.drain(0.01)
    loop.stop()
    assert isinstance(box.all()[-1], EngineStoppedError)
