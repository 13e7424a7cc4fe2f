"""Payments into prepaid balances: each is counted once, by the id under which it was made.

    settling   written before the facilitator is asked to settle: it may have been paid
    paid       credited to its key
    failed     the first attempt was refused for good: nothing was paid
    disputed   refused after an attempt whose end is not known: somebody should look

What is left `settling` by a process that died is settled again: the same signed payment is never taken twice.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection, select, update

from nearfield.core.errors import ConfigError
from nearfield.node import accounts
from nearfield.node.database import CREDITS
from nearfield.node.ledger import Ledger

State = Literal["settling", "paid", "failed", "disputed"]


@dataclass(frozen=True)
class Credit:
    """A payment of `nano` nano-dollars to a payer. request: what is sent to settle it; answer: what came back."""

    id: str
    payer: str
    nano: int
    state: State
    attempts: int
    request: str
    answer: str


class Credits:
    """The payments in the books."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def find(self, credit_id: str) -> Credit | None:
        with self._ledger.database.read() as connection:
            row = connection.execute(select(CREDITS).where(CREDITS.c.id == credit_id)).one_or_none()
        return None if row is None else _credit(row)

    def unsettled(self) -> list[Credit]:
        """Payments whose end is not known: the node settles them again when it starts."""
        return self._in("settling")

    def disputed(self) -> list[Credit]:
        """Payments that were refused, and may have been made before: for the operator to look at."""
        return self._in("disputed")

    def _in(self, state: State) -> list[Credit]:
        with self._ledger.database.read() as connection:
            rows = connection.execute(select(CREDITS).where(CREDITS.c.state == state).order_by(CREDITS.c.created))
            return [_credit(row) for row in rows]

    def begin(self, credit_id: str, payer: str, nano: int, request: str) -> Credit:
        """Write down an attempt to settle. Returns the payment as it now stands, which may be paid already.

        A payment stays its first payer's; one that failed may be tried anew by another.
        """
        now = self._ledger.clock()
        with self._ledger.database.write() as connection:
            accounts.insert_new(connection, CREDITS, id=credit_id, payer=payer, nano=nano, state="settling",
                                attempts=0, request=request, answer="", created=int(now))
            found = _locked(connection, credit_id)
            if found.state == "failed":
                found = replace(found, payer=payer, nano=nano, request=request, attempts=0)
            if found.state != "paid" and found.payer == payer:
                found = replace(found, state="settling", attempts=found.attempts + 1)
                _put(connection, found)
        return found

    def paid(self, credit_id: str, answer: str) -> Credit:
        """Credit the payer, unless that was done before."""
        with self._ledger.database.write() as connection:
            found = _locked(connection, credit_id)
            if found.state == "paid":
                return found
            account = accounts.lock(connection, found.payer, self._ledger.clock())
            accounts.put(connection, replace(account, added=account.added + found.nano))
            found = replace(found, state="paid", request="", answer=answer)
            _put(connection, found)
        return found

    def refused(self, credit_id: str, answer: str) -> Credit:
        """The payment was refused: for good when this was the only attempt, else in dispute."""
        with self._ledger.database.write() as connection:
            found = _locked(connection, credit_id)
            if found.state == "settling":
                found = replace(found, state="failed" if found.attempts == 1 else "disputed", answer=answer)
                _put(connection, found)
        return found

    def grant(self, reference: str, payer: str, nano: int) -> bool:
        """Credit what was paid in another way, once for each reference. Returns whether it is new.

        Raises:
            ConfigError: the reference is another payment's.
        """
        name, now = f"grant:{reference}", self._ledger.clock()
        with self._ledger.database.write() as connection:
            if not accounts.insert_new(connection, CREDITS, id=name, payer=payer, nano=nano, state="paid", attempts=1,
                                       request="", answer="", created=int(now)):
                found = _locked(connection, name)
                if (found.payer, found.nano) != (payer, nano):
                    raise ConfigError(f"the reference {reference!r} stands for another payment: of {found.nano} "
                                      "nano-dollars, or to another key; give each payment one of its own")
                return False
            account = accounts.lock(connection, payer, now)
            accounts.put(connection, replace(account, added=account.added + nano))
        return True


def _locked(connection: Connection, credit_id: str) -> Credit:
    return _credit(connection.execute(select(CREDITS).where(CREDITS.c.id == credit_id).with_for_update()).one())


def _put(connection: Connection, credit: Credit) -> None:
    connection.execute(update(CREDITS).where(CREDITS.c.id == credit.id).values(
        payer=credit.payer, nano=credit.nano, state=credit.state, attempts=credit.attempts, request=credit.request,
        answer=credit.answer))


def _credit(row: object) -> Credit:
    return Credit(*(getattr(row, name) for name in Credit.__dataclass_fields__))
