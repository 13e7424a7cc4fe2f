"""What payers may spend: added - spent - what is reserved for answers that are being made.

Every function works inside a transaction of its caller. `lock` comes first: until that transaction ends nobody else
changes the account or its reservations, so that two requests never spend the same money.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from nearfield.node.database import ACCOUNTS, RESERVATIONS

FREE = "free"
"""Who pays for what costs nothing."""


@dataclass(frozen=True)
class Account:
    """A payer's sums, in the payer's unit: nano-dollars for a key, atomic units of a token for a channel."""

    payer: str
    added: int
    spent: int
    reserved: int

    @property
    def available(self) -> int:
        return max(0, self.added - self.spent - self.reserved)


def key_payer(api_key: str) -> str:
    """The payer behind an API key. Keys are long and random: a plain hash does not give them away."""
    return f"key:{sha256(api_key.encode()).hexdigest()}"


def channel_payer(channel_id: str) -> str:
    return f"channel:{channel_id}"


def insert_new(connection: Connection, table: Any, **values: Any) -> bool:
    """Insert a row, unless one with its primary key is there. Returns whether it is new."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(statement).first() is not None


def lock(connection: Connection, payer: str, now: float, ending: str = "") -> Account:
    """The payer's account, locked until the transaction ends; a payer without one gets one.

    Drops the reservations that have lapsed, and the one whose id is `ending`.
    """
    insert_new(connection, ACCOUNTS, payer=payer, added=0, spent=0)
    found = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.payer == payer).with_for_update()).one()
    over = or_(RESERVATIONS.c.expires <= int(now), RESERVATIONS.c.id == ending)
    connection.execute(delete(RESERVATIONS).where(RESERVATIONS.c.payer == payer, over))
    return Account(payer, found.added, found.spent, _reserved(connection, payer, now))


def look(connection: Connection, payer: str, now: float) -> Account | None:
    """The payer's account as it stands; None when there is none."""
    found = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.payer == payer)).one_or_none()
    if found is None:
        return None
    return Account(payer, found.added, found.spent, _reserved(connection, payer, now))


def put(connection: Connection, account: Account) -> None:
    """Write the sums of a locked account."""
    connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.payer == account.payer)
                       .values(added=account.added, spent=account.spent))


def reserve(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(insert(RESERVATIONS).values(values))


def renew(connection: Connection, reservation_id: str, expires: int) -> None:
    connection.execute(update(RESERVATIONS).where(RESERVATIONS.c.id == reservation_id).values(expires=expires))


def unreserve(connection: Connection, reservation_id: str) -> None:
    connection.execute(delete(RESERVATIONS).where(RESERVATIONS.c.id == reservation_id))


def _reserved(connection: Connection, payer: str, now: float) -> int:
    # In Python: no database adds 128 bits.
    rows = connection.execute(select(RESERVATIONS.c.amount).where(
        RESERVATIONS.c.payer == payer, RESERVATIONS.c.expires > int(now)))
    return sum(rows.scalars())
