"""The node's books: what was answered, who paid for it, and what is set aside for answers that are being made.

A response is recorded once, by its id: a second record of it changes nothing, so that whoever does not know whether
a record was kept can make it again. Charging, recording and queueing the report are one transaction.

A reservation ends with its response, and is renewed until then. Those of a process that died end when its node starts
again, and in any case after LEASE seconds.
"""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection, delete, func, select

from nearfield.node import accounts
from nearfield.node.accounts import FREE, Account
from nearfield.node.database import ACCOUNTS, REPORTS, RESERVATIONS, RESPONSES, VOUCHERS, Database
from nearfield.node.usage import Charge, Usage

LEASE = 3600
"""Seconds that a reservation lives unless it is renewed."""
RENEWAL = LEASE / 4
"""Seconds after which the reservation of an answer that is still being made should be renewed."""


@dataclass(frozen=True)
class Reservation:
    """An amount that a payer's other requests can not spend, in the payer's unit."""

    id: str
    payer: str
    amount: int


@dataclass(frozen=True)
class Total:
    """What was answered by one model."""

    model: str
    responses: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_nano: int


@dataclass(frozen=True)
class Earnings:
    """What the node has earned, ever. Nano-dollars taken from prepaid balances and what is left of these; units of the
    channels' token charged for, and what the vouchers in hand entitle to, withdrawn already or not."""

    prepaid_nano: int
    prepaid_left_nano: int
    channel_units: int
    voucher_units: int


class _KnownError(Exception):
    """Undoes the record of an id that is known."""


class Ledger:
    """Books in a database that several nodes may share. Safe to use from many threads."""

    def __init__(self, database: Database, *, node: str = "", reports: bool = False,
                 clock: Callable[[], float] = time.time) -> None:
        """`node` names whose reservations are made here; `reports` queues every response for a reporter."""
        self.database = database
        self.clock = clock
        self._node, self._reports = node, reports

    def start(self) -> None:
        """Drop what earlier processes of this node had reserved. Called once, by the process that serves."""
        with self.database.write() as connection:
            connection.execute(delete(RESERVATIONS).where(RESERVATIONS.c.node == self._node))

    def account(self, payer: str) -> Account:
        """What a payer has; zeros for one that is not known."""
        with self.database.read() as connection:
            return accounts.look(connection, payer, self.clock()) or Account(payer, 0, 0, 0)

    def reserve(self, payer: str, least: int, most: int) -> Reservation | None:
        """Set aside as much as there is, from `least` to `most`; None when there is less than `least`."""
        now = self.clock()
        if self.account(payer).added < least:
            return None     # without a trace: anyone can make up a key
        with self.database.write() as connection:
            available = accounts.lock(connection, payer, now).available
            if available < least:
                return None
            reservation = Reservation(uuid.uuid4().hex, payer, min(available, most))
            accounts.reserve(connection, {"id": reservation.id, "payer": payer, "amount": reservation.amount,
                                          "node": self._node, "expires": int(now) + LEASE})
        return reservation

    def renew(self, reservation: Reservation) -> None:
        """Let it live for another LEASE; one that has ended stays so."""
        with self.database.write() as connection:
            accounts.renew(connection, reservation.id, int(self.clock()) + LEASE)

    def release(self, reservation: Reservation) -> None:
        """Give back what was set aside. Releasing twice, or what was charged, changes nothing."""
        with self.database.write() as connection:
            accounts.unreserve(connection, reservation.id)

    def record(self, usage: Usage, cost_nano: int, reservation: Reservation | None = None, amount: int = 0) -> bool:
        """Record a response of `cost_nano` and take `amount` of the payer's unit, ending the reservation.

        What costs more than was reserved takes the rest from what nobody else has reserved, as far as that goes.
        Returns False, and changes nothing, when the id is known already.
        """
        try:
            with self.database.write() as connection:
                if reservation is None:
                    self._insert(connection, usage, cost_nano, FREE, 0)
                else:
                    self._charge(connection, usage, cost_nano, reservation, amount)
        except _KnownError:
            return False
        return True

    def _charge(self, connection: Connection, usage: Usage, cost_nano: int, reservation: Reservation,
                amount: int) -> None:
        account = accounts.lock(connection, reservation.payer, self.clock(), ending=reservation.id)
        taken = min(amount, account.available)
        if amount > min(taken, reservation.amount):
            logging.getLogger("nearfield").warning("response %s: %d of %d were charged, and %d had been set aside",
                                                   usage.id, taken, amount, reservation.amount)
        cost_nano = cost_nano * taken // amount if amount else cost_nano
        self._insert(connection, usage, cost_nano, account.payer, taken)
        accounts.put(connection, replace(account, spent=account.spent + taken))

    def _insert(self, connection: Connection, usage: Usage, cost_nano: int, payer: str, taken: int) -> None:
        """Raises _KnownError."""
        if not accounts.insert_new(
                connection, RESPONSES, id=usage.id, model=usage.model, prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens, completion_tokens=usage.completion_tokens, cost_nano=cost_nano,
                payer=payer, charged=taken, created=int(self.clock())):
            raise _KnownError
        if self._reports:
            accounts.insert_new(connection, REPORTS, id=usage.id, due=0, attempts=0, outcome="", rejected=False)

    def response(self, response_id: str) -> Charge | None:
        """A response as it was recorded; None when it is not."""
        with self.database.read() as connection:
            row = connection.execute(select(RESPONSES).where(RESPONSES.c.id == response_id)).one_or_none()
        if row is None:
            return None
        return Charge(Usage(row.id, row.model, row.prompt_tokens, row.cached_tokens, row.completion_tokens),
                      row.cost_nano, row.created)

    def totals(self, since: float = 0) -> list[Total]:
        """What was answered from `since` (Unix seconds) on, by model."""
        sums = [func.sum(RESPONSES.c[name]) for name in
                ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nano")]
        with self.database.read() as connection:
            rows = connection.execute(
                select(RESPONSES.c.model, func.count(), *sums).where(RESPONSES.c.created >= int(since))
                .group_by(RESPONSES.c.model).order_by(RESPONSES.c.model)).all()
        return [Total(model, *map(int, numbers)) for model, *numbers in rows]

    def earnings(self) -> Earnings:
        with self.database.read() as connection:
            rows = connection.execute(select(ACCOUNTS)).all()
            vouched = connection.execute(select(VOUCHERS.c.spent_balance)).scalars().all()
        keys = [row for row in rows if row.payer.startswith("key:")]
        channels = [row for row in rows if row.payer.startswith("channel:")]
        return Earnings(prepaid_nano=sum(row.spent for row in keys),
                        prepaid_left_nano=sum(row.added - row.spent for row in keys),
                        channel_units=sum(row.spent for row in channels), voucher_units=sum(vouched))
