"""Usage reports: NEAR AI's form, every failure that can pass, and a receiver that counts each id once."""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from nearfield.node.database import Database
from nearfield.node.ledger import Ledger
from nearfield.node.report import ATTEMPT_SECONDS, BATCH, FIRST_PAUSE, MAX_PAUSE, Reporter
from tests.node.ledger.doubles import Clock, usage

URL = "https://cloud.example/v1/internal/usage"


@dataclass
class Billing:
    """Takes reports, an id once. `answers` are played first: a status, or an exception. With `lost` it counts a report
    and then fails to say so."""

    answers: list[int | BaseException] = field(default_factory=list)
    lost: bool = False
    counted: dict[str, Any] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        self.requests.append(request)
        body = json.loads(request.content)
        if self.answers:
            if self.lost:
                self.counted.setdefault(body["id"], body)
            answer = self.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return httpx.Response(answer)
        self.counted.setdefault(body["id"], body)
        return httpx.Response(200)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield Ledger(database, reports=True, clock=clock)
    database.close()


def send(ledger: Ledger, billing: Billing, owner: dict[str, str] | None = None) -> int:
    async def run() -> int:
        async with httpx.AsyncClient(transport=httpx.MockTransport(billing)) as client:
            return await Reporter(ledger, client, URL, "the-token", owner).send_due()

    return asyncio.run(run())


def pending(ledger: Ledger) -> tuple[int, int]:
    async def run() -> tuple[int, int]:
        async with httpx.AsyncClient() as client:
            return Reporter(ledger, client, URL, "t").pending()

    return asyncio.run(run())


def test_the_form(ledger: Ledger) -> None:
    ledger.record(usage("chatcmpl-1", prompt=10, cached=4, completion=5), 7)
    billing = Billing()
    owner = {"organization_id": "o", "workspace_id": "w", "api_key_id": "k"}
    assert send(ledger, billing, owner) == 1
    request = billing.requests[0]
    assert (request.method, str(request.url), request.headers["authorization"]) == ("POST", URL, "Bearer the-token")
    assert json.loads(request.content) == {
        "type": "chat_completion", "model": "org/model", "input_tokens": 10, "output_tokens": 5,
        "cache_read_tokens": 4, "id": "chatcmpl-1", **owner}
    assert send(ledger, billing) == 0 and pending(ledger) == (0, 0)


def test_nothing_is_queued_where_nobody_asks(ledger: Ledger) -> None:
    Ledger(ledger.database).record(usage("a"), 1)
    assert pending(ledger) == (0, 0)


def test_a_response_is_queued_once(ledger: Ledger) -> None:
    ledger.record(usage("a"), 1)
    ledger.record(usage("a"), 1)
    assert pending(ledger) == (1, 0)


@pytest.mark.parametrize("answer", [500, 503, 429, 408, 401, 403, 302, httpx.ReadTimeout("x"), httpx.ConnectError("x")],
                         ids=repr)
@pytest.mark.parametrize("lost", [False, True])
def test_what_can_pass_is_tried_again(ledger: Ledger, clock: Clock, answer: int | Exception, lost: bool) -> None:
    ledger.record(usage("a"), 1)
    billing = Billing([answer, answer], lost)
    assert send(ledger, billing) == 1 and send(ledger, billing) == 0
    clock.now += FIRST_PAUSE
    assert send(ledger, billing) == 1
    clock.now += FIRST_PAUSE
    assert send(ledger, billing) == 0       # the pause has doubled
    clock.now += FIRST_PAUSE
    assert send(ledger, billing) == 1
    assert list(billing.counted) == ["a"] and pending(ledger) == (0, 0)


def test_pauses_end_somewhere(ledger: Ledger, clock: Clock) -> None:
    ledger.record(usage("a"), 1)
    billing = Billing([503] * 40)
    for _ in range(40):
        assert send(ledger, billing) == 1
        clock.now += MAX_PAUSE
    assert send(ledger, billing) == 1 and list(billing.counted) == ["a"]


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_refusal_is_final_kept_and_said(ledger: Ledger, clock: Clock, caplog: pytest.LogCaptureFixture,
                                          status: int) -> None:
    ledger.record(usage("a"), 1)
    ledger.record(usage("b"), 1)
    billing = Billing([status])
    assert send(ledger, billing) == 2 and len(billing.counted) == 1     # it holds up nobody
    clock.now += MAX_PAUSE
    assert send(ledger, billing) == 0 and pending(ledger) == (0, 1)
    assert f"was refused: HTTP {status}" in caplog.text and "the-token" not in caplog.text


def test_an_outage_is_probed_by_one_report(ledger: Ledger, clock: Clock) -> None:
    for number in range(10):
        ledger.record(usage(f"r{number}"), 1)
    billing = Billing([httpx.ConnectError("x")])
    assert send(ledger, billing) == 1 and len(billing.requests) == 1
    clock.now += FIRST_PAUSE
    assert send(ledger, billing) == 10 and len(billing.counted) == 10


def test_many_go_in_batches(ledger: Ledger) -> None:
    for number in range(BATCH + 3):
        ledger.record(usage(f"r{number}"), 1)
    billing = Billing()
    assert [send(ledger, billing) for _ in range(3)] == [BATCH, 3, 0]
    assert len(billing.counted) == BATCH + 3


def test_a_reporter_that_dies_while_sending_loses_nothing(ledger: Ledger, clock: Clock) -> None:
    for name in "ab":
        ledger.record(usage(name), 1)
    billing = Billing([asyncio.CancelledError()], lost=True)
    with pytest.raises(asyncio.CancelledError):
        send(ledger, billing)
    assert send(ledger, billing) == 0       # its claim stands
    clock.now += BATCH * ATTEMPT_SECONDS + 1
    assert send(ledger, billing) == 2
    assert sorted(billing.counted) == ["a", "b"] and pending(ledger) == (0, 0)


def test_two_reporters_share_the_work(ledger: Ledger) -> None:
    for number in range(BATCH * 2):
        ledger.record(usage(f"r{number}"), 1)
    billing = Billing()

    async def run() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(billing)) as client:
            reporters = [Reporter(ledger, client, URL, "t") for _ in range(2)]
            return await asyncio.gather(*(reporter.send_due() for reporter in reporters))

    assert asyncio.run(run()) == [BATCH, BATCH]
    assert len(billing.requests) == len(billing.counted) == BATCH * 2


def test_run_goes_on_when_the_ledger_fails(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("nearfield.node.report.IDLE_SECONDS", 0.01)
    caplog.set_level(logging.ERROR, "nearfield")
    billing = Billing()
    ledger.record(usage("a"), 1)
    other = sqlite3.connect(tmp_path / "ledger.sqlite")
    other.execute("alter table reports rename to hidden")

    async def run() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(billing)) as client:
            task = asyncio.create_task(Reporter(ledger, client, URL, "t").run())
            while "can not be written" not in caplog.text:
                await asyncio.sleep(0.01)
            other.execute("alter table hidden rename to reports")
            while not billing.counted:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 30))
    other.close()
    assert list(billing.counted) == ["a"]
