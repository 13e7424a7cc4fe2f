"""The books: one record a response, no overdraft whoever spends at once, and nothing left set aside by the dead."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from nearfield.core.errors import ConfigError
from nearfield.node.accounts import FREE, channel_payer, key_payer
from nearfield.node.channel_book import ChannelBook
from nearfield.node.collect import last_vouchers
from nearfield.node.credits import Credits
from nearfield.node.database import ACCOUNTS, Database
from nearfield.node.ledger import LEASE, Ledger, Reservation, Total
from nearfield.node.report import Reporter
from tests.node.ledger.doubles import Channel, Clock, channel, node_identity, usage, voucher

KEY = key_payer("sk-" + "a" * 40)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(database: Database, clock: Clock) -> Iterator[Ledger]:
    yield Ledger(database, node="one", clock=clock)


def fund(ledger: Ledger, nano: int, payer: str = KEY, reference: str = "first") -> None:
    assert Credits(ledger).grant(reference, payer, nano)


def test_a_response_is_recorded_once(ledger: Ledger) -> None:
    assert ledger.record(usage("a"), 7)
    assert not ledger.record(usage("a", completion=99), 8)
    charge = ledger.response("a")
    assert charge is not None and (charge.usage, charge.cost_nano) == (usage("a"), 7)
    assert ledger.response("b") is None


def test_totals_are_by_model_and_time(ledger: Ledger, clock: Clock) -> None:
    ledger.record(usage("a", prompt=10, cached=4, completion=2), 100)
    clock.now += 60
    ledger.record(usage("b", prompt=1, completion=1), 11)
    assert ledger.totals() == [Total("org/model", 2, 11, 4, 3, 111)]
    assert ledger.totals(clock.now) == [Total("org/model", 1, 1, 0, 1, 11)]
    assert ledger.totals(clock.now + 1) == []


def test_what_is_set_aside_can_not_be_spent_twice(ledger: Ledger) -> None:
    fund(ledger, 100)
    first = ledger.reserve(KEY, 10, 70)
    second = ledger.reserve(KEY, 10, 70)
    assert first is not None and second is not None and (first.amount, second.amount) == (70, 30)
    assert ledger.reserve(KEY, 1, 1) is None
    ledger.release(second)
    assert ledger.record(usage("a"), 50, first, 50)
    account = ledger.account(KEY)
    assert (account.added, account.spent, account.reserved, account.available) == (100, 50, 0, 50)
    ledger.release(first)       # what was charged is not given back
    assert ledger.account(KEY) == account


def test_what_costs_more_than_was_set_aside_takes_what_nobody_else_has(ledger: Ledger,
                                                                       caplog: pytest.LogCaptureFixture) -> None:
    fund(ledger, 100)
    reservation, other = ledger.reserve(KEY, 10, 10), ledger.reserve(KEY, 60, 60)
    assert ledger.record(usage("a"), 80, reservation, 80)
    assert (ledger.account(KEY).spent, ledger.account(KEY).reserved) == (40, 60)
    charge = ledger.response("a")
    assert charge is not None and charge.cost_nano == 40
    assert "40 of 80 were charged, and 10 had been set aside" in caplog.text and KEY not in caplog.text
    assert ledger.record(usage("b"), 60, other, 60) and ledger.account(KEY).spent == 100


def test_an_id_that_is_known_changes_nothing(ledger: Ledger) -> None:
    fund(ledger, 100)
    ledger.record(usage("a"), 10, ledger.reserve(KEY, 10, 10), 10)
    reservation = ledger.reserve(KEY, 20, 20)
    assert not ledger.record(usage("a"), 20, reservation, 20)
    account = ledger.account(KEY)
    assert (account.spent, account.reserved) == (10, 20)
    assert ledger.record(usage("b"), 20, reservation, 20) and ledger.account(KEY).spent == 30


def test_an_unknown_payer_has_nothing_and_leaves_nothing(ledger: Ledger, database: Database) -> None:
    assert ledger.reserve("key:unknown", 1, 5) is None
    assert ledger.account("key:unknown").available == 0
    with database.read() as connection:
        assert not connection.execute(select(ACCOUNTS)).all()


def test_a_start_gives_back_what_the_dead_had_set_aside(ledger: Ledger, database: Database, clock: Clock) -> None:
    fund(ledger, 100)
    lost = ledger.reserve(KEY, 60, 60)
    other = Ledger(database, node="two", clock=clock).reserve(KEY, 15, 15)
    again = Ledger(database, node="one", clock=clock)
    again.start()
    assert again.account(KEY).reserved == 15        # another node's is another's business
    # The answer was made all the same: it is charged, up to what is there.
    taken = again.reserve(KEY, 50, 50)
    assert again.record(usage("a"), 60, lost, 60)
    assert again.account(KEY).spent == 35
    assert again.record(usage("b"), 15, other, 15) and again.record(usage("c"), 50, taken, 50)
    assert again.account(KEY).spent == 100


def test_what_is_set_aside_lapses(ledger: Ledger, clock: Clock) -> None:
    fund(ledger, 100)
    assert ledger.reserve(KEY, 100, 100)
    clock.now += LEASE - 1
    assert ledger.reserve(KEY, 1, 1) is None
    clock.now += 1
    assert ledger.account(KEY).available == 100
    assert ledger.reserve(KEY, 100, 100) is not None


def test_what_is_renewed_does_not_lapse(ledger: Ledger, clock: Clock) -> None:
    fund(ledger, 100)
    reservation = ledger.reserve(KEY, 100, 100)
    assert reservation is not None
    for _ in range(3):
        clock.now += LEASE - 1
        ledger.renew(reservation)
    assert ledger.reserve(KEY, 1, 1) is None
    ledger.release(reservation)
    ledger.renew(reservation)       # what has ended stays so
    assert ledger.account(KEY).available == 100


def test_earnings_keep_kinds_apart(ledger: Ledger) -> None:
    fund(ledger, 100)
    fund(ledger, 2**100, channel_payer("c"), "second")
    ledger.record(usage("a"), 30, ledger.reserve(KEY, 30, 30), 30)
    ledger.record(usage("b"), 1, ledger.reserve(channel_payer("c"), 2**99, 2**99), 2**99)
    ledger.record(usage("c"), 5)
    earned = ledger.earnings()
    assert (earned.prepaid_nano, earned.prepaid_left_nano, earned.channel_units) == (30, 70, 2**99)


def test_a_grant_counts_once(ledger: Ledger) -> None:
    credits = Credits(ledger)
    assert credits.grant("invoice 7", KEY, 5) and not credits.grant("invoice 7", KEY, 5)
    assert ledger.account(KEY).added == 5
    for payer, nano in ((KEY, 6), ("key:other", 5)):
        with pytest.raises(ConfigError, match="'invoice 7' stands for another payment: of 5 nano-dollars"):
            credits.grant("invoice 7", payer, nano)
    assert ledger.account(KEY).added == 5 and credits.unsettled() == []


def test_keys_are_not_in_the_books(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger = Ledger(database)
    fund(ledger, 10, key_payer("sk-very-secret-0123456789-0123456789"))
    ledger.record(usage("a"), 1, ledger.reserve(KEY, 0, 0), 0)
    database.close()
    assert b"very-secret" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_vouchers_payments_and_reports_are_kept_too(database: Database) -> None:
    ledger = Ledger(database, reports=True)
    credits = Credits(ledger)
    assert credits.begin("p", KEY, 5, "{}").attempts == 1 and credits.begin("p", KEY, 5, "{}").attempts == 2
    assert [credit.id for credit in credits.unsettled()] == ["p"]
    assert credits.refused("p", "no").state == "disputed" and credits.paid("p", "yes").state == "paid"
    assert credits.begin("p", KEY, 5, "{}") == credits.find("p") and ledger.account(KEY).added == 5

    async def chain(channel_id: str) -> Channel:
        return channel(added_balance=2**100)

    async def billing(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503 if b"r0" in request.content else 404 if b"r1" in request.content else 200)

    async def run() -> None:
        book = ChannelBook(ledger, chain, node_identity())
        for spent in (5, 5, 2**99):
            assert await book.take(voucher(spent)) == channel_payer("channel-1")
        assert [found.spent_balance for found in last_vouchers(ledger)] == [2**99]
        for number in range(3):
            ledger.record(usage(f"r{number}"), 1)
        async with httpx.AsyncClient(transport=httpx.MockTransport(billing)) as client:
            reporter = Reporter(ledger, client, "https://cloud.example", "t")
            assert await reporter.send_due() == 3 and reporter.pending() == (1, 1)

    asyncio.run(run())


def test_threads_do_not_overdraw(ledger: Ledger) -> None:
    fund(ledger, 1000)

    def spend(worker: int) -> int:
        taken = 0
        for number in range(12):
            reservation = ledger.reserve(KEY, 1, 37)
            if reservation is not None:
                assert ledger.record(usage(f"{worker}-{number}"), 37, reservation, 37)
                taken += reservation.amount
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = sum(pool.map(spend, range(6)))
    account = ledger.account(KEY)
    assert (account.spent, account.reserved) == (1000, 0) and taken == 1000


SPENDER = """
import sys
from nearfield.node.database import ACCOUNTS, Database
from nearfield.node.ledger import Ledger
from nearfield.node.usage import Usage
url, payer, name = sys.argv[1:]
ledger = Ledger(Database(url), node=name)
for number in range(12):
    reservation = ledger.reserve(payer, 1, 50)
    if reservation is not None:
        # Every id is offered by every process; one of them records it.
        if not ledger.record(Usage(f"r{number}", "m", 1, 0, 1), 50, reservation, 50):
            ledger.release(reservation)
"""


def test_processes_neither_overdraw_nor_count_twice(ledger_url: str) -> None:
    database = Database(ledger_url)
    ledger = Ledger(database)
    fund(ledger, 10_000)
    children = [subprocess.Popen([sys.executable, "-c", SPENDER, ledger_url, KEY, name], stderr=subprocess.PIPE)
                for name in "abc"]
    for child in children:
        _, complaint = child.communicate(timeout=60)
        assert child.returncode == 0, complaint.decode()
    assert ledger.totals()[0].responses == 12
    account = ledger.account(KEY)
    assert (account.spent, account.reserved) == (12 * 50, 0)
    database.close()


class Books(RuleBasedStateMachine):
    """Any order of credits, reservations, charges, releases and crashes, against sums kept in memory."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder.mkdir(exist_ok=True)
        for file in self.folder.iterdir():
            file.unlink()
        self.clock = Clock()
        self.added = self.spent = 0
        self.granted: list[int] = []
        self.held: list[Reservation] = []
        self.ids: list[str] = []
        self.open()

    def open(self) -> None:
        self.database = Database(f"sqlite:///{self.folder}/ledger.sqlite")
        self.ledger = Ledger(self.database, node="n", clock=self.clock)
        self.ledger.start()

    def teardown(self) -> None:
        self.database.close()

    @rule(nano=st.integers(0, 100), old=st.booleans())
    def credit(self, nano: int, old: bool) -> None:
        if old and self.granted:
            assert not Credits(self.ledger).grant("g0", KEY, self.granted[0])
            return
        assert Credits(self.ledger).grant(f"g{len(self.granted)}", KEY, nano)
        self.granted.append(nano)
        self.added += nano

    @rule(least=st.integers(0, 60), most=st.integers(0, 120))
    def reserve(self, least: int, most: int) -> None:
        left = self.added - self.spent - sum(reservation.amount for reservation in self.held)
        reservation = self.ledger.reserve(KEY, min(least, most), most)
        assert (reservation is None) == (left < min(least, most))
        if reservation is not None:
            assert reservation.amount == min(left, most)
            self.held.append(reservation)

    @precondition(lambda self: self.held)
    @rule(amount=st.integers(0, 120), known=st.booleans())
    def record(self, amount: int, known: bool) -> None:
        if known and self.ids:
            assert not self.ledger.record(usage(self.ids[0]), amount, self.held[0], amount)
            return
        reservation = self.held.pop(0)
        self.ids.append(f"r{len(self.ids)}")
        assert self.ledger.record(usage(self.ids[-1]), amount, reservation, amount)
        self.spent += min(amount, self.added - self.spent - sum(other.amount for other in self.held))

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.ledger.release(self.held.pop())

    @rule()
    def crash(self) -> None:
        self.database.close()
        self.open()
        self.held = []

    @precondition(lambda self: self.held)
    @rule()
    def lapse(self) -> None:
        self.clock.now += LEASE
        self.held = []

    @invariant()
    def sums_agree(self) -> None:
        account = self.ledger.account(KEY)
        held = sum(reservation.amount for reservation in self.held)
        assert (account.added, account.spent, account.reserved) == (self.added, self.spent, held)
        assert account.added - account.spent - account.reserved >= 0


def test_any_order_of_events_keeps_the_sums(tmp_path: Path) -> None:
    Books.folder = tmp_path / "books"
    run_state_machine_as_test(Books, settings=settings(
        max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)))


def test_free_answers_have_no_payer(ledger: Ledger, database: Database) -> None:
    ledger.record(usage("a"), 7)
    assert ledger.account(FREE).spent == 0
