"""Where a node keeps its accounts: the tables, and transactions that are on the disk when they have ended.

SQLite in one file by default: write-ahead log, synced at every commit, and one writer at a time from its first
statement on (BEGIN IMMEDIATE), so that what a transaction has read stays true until it writes. PostgreSQL by URL:
rows are locked before they are read to be changed (accounts.py). Amounts of tokens have up to 128 bits, more than
either has integers for: they are kept as 39 digits of text, which sort as numbers do.

No prompt and no answer is ever stored, and of an API key its hash alone.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Dialect,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from nearfield.node.errors import NodeError

SCHEMA = 1
BUSY_SECONDS = 15
MAX_UNITS = 2**128 - 1
_SETUP_LOCK = 0x6E656172     # any number will do that nothing else in the database takes


class LedgerError(NodeError):
    """The ledger can not be opened, read or written; towards a client that is 503."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


class NoLedgerError(LedgerError):
    """There is no ledger where one was to be read."""


class Units(TypeDecorator[int]):
    """A whole number from 0 to 2^128-1."""

    impl = String(39)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if not 0 <= value <= MAX_UNITS:
            raise LedgerError("an amount does not fit 128 bits")
        return f"{value:039d}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


METADATA = MetaData()

VERSION = Table("ledger", METADATA, Column("schema_version", Integer, nullable=False))

# What a payer may spend, in its own unit. `key:<sha256>`: nano-dollars credited; `channel:<id>`: units vouched for.
ACCOUNTS = Table(
    "accounts", METADATA,
    Column("payer", String, primary_key=True),
    Column("added", Units, nullable=False),
    Column("spent", Units, nullable=False),
    CheckConstraint("spent <= added", name="no_overdraft"))

RESERVATIONS = Table(
    "reservations", METADATA,
    Column("id", String, primary_key=True),
    Column("payer", String, nullable=False, index=True),
    Column("amount", Units, nullable=False),
    Column("node", String, nullable=False),
    Column("expires", BigInteger, nullable=False))

RESPONSES = Table(
    "responses", METADATA,
    Column("id", String, primary_key=True),
    Column("model", String, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("payer", String, nullable=False),
    Column("charged", Units, nullable=False),
    Column("created", BigInteger, nullable=False, index=True))

VOUCHERS = Table(
    "vouchers", METADATA,
    Column("channel_id", String, primary_key=True),
    Column("spent_balance", Units, nullable=False),
    Column("signature", String, nullable=False))

CREDITS = Table(
    "credits", METADATA,
    Column("id", String, primary_key=True),
    Column("payer", String, nullable=False),
    Column("nano", Units, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
    Column("request", String, nullable=False),
    Column("answer", String, nullable=False),
    Column("created", BigInteger, nullable=False))

REPORTS = Table(
    "reports", METADATA,
    Column("id", String, primary_key=True),
    Column("due", BigInteger, nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
    Column("outcome", String, nullable=False),
    Column("rejected", Boolean, nullable=False))


class Database:
    """An open ledger. Safe to use from many threads, and by many processes."""

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Open the ledger at `url`, an SQLAlchemy URL, and make its tables when it has none, unless `make` is false.

        Raises:
            LedgerError: it is not a ledger, has another version, or can not be reached.
            NoLedgerError: it is not there, and not to be made.
        """
        parsed = _parse(url)
        self._make = make
        self.place = str(parsed.database) if parsed.get_backend_name() == "sqlite" else parsed.render_as_string()
        if not make and parsed.get_backend_name() == "sqlite" and not Path(self.place).exists():
            raise self._missing()
        try:
            self._engine = _engine(parsed)
            try:
                self._open()
            except BaseException:
                self._engine.dispose()
                raise
        except ModuleNotFoundError:
            raise LedgerError("a ledger in PostgreSQL needs a driver: pip install 'nearfield[node-postgres]'") from None
        except (SQLAlchemyError, OSError) as error:
            raise LedgerError(f"can not open the ledger {self.place}: {_reason(error)}") from None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: on the disk when the block has ended, and undone when it raises.

        Raises:
            LedgerError: the database did not take it.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._failed("written", error) from None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that changes nothing, and waits for no writer. Raises LedgerError."""
        try:
            with self._engine.connect().execution_options(reads=True) as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._failed("read", error) from None

    def close(self) -> None:
        self._engine.dispose()

    def _open(self) -> None:
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_SETUP_LOCK)))
            self._set_up(connection)

    def _set_up(self, connection: Connection) -> None:
        names = set(inspect(connection).get_table_names())
        if VERSION.name not in names:
            if taken := names & METADATA.tables.keys():
                raise LedgerError(f"{self.place} is no ledger: it has tables named {', '.join(sorted(taken))} of "
                                  "another program; name another database")
            if not self._make:
                raise self._missing()
            METADATA.create_all(connection)
            connection.execute(insert(VERSION).values(schema_version=SCHEMA))
        found = connection.execute(select(VERSION.c.schema_version)).scalars().all()
        if found != [SCHEMA]:
            versions = ", ".join(map(str, found)) or "no version"
            raise LedgerError(f"the ledger {self.place} has schema {versions}, and this Nearfield reads {SCHEMA}: "
                              "use the Nearfield that wrote it, or name another ledger")

    def _missing(self) -> NoLedgerError:
        return NoLedgerError(f"there is no ledger at {self.place} yet: a node makes it when it serves")

    def _failed(self, verb: str, error: SQLAlchemyError) -> LedgerError:
        # Where it is, is the operator's business and not the client's.
        logging.getLogger("nearfield").error("the ledger %s can not be %s: %s", self.place, verb, _reason(error))
        return LedgerError(f"the node's ledger can not be {verb}; try again later")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise LedgerError("the ledger is not an SQLAlchemy URL, such as sqlite:////var/lib/node/ledger.sqlite or "
                          "postgresql://user@host/database") from None
    if parsed.drivername == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise LedgerError(f"the ledger can be kept by sqlite or postgresql, not by {parsed.get_backend_name()!r}")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise LedgerError("a ledger in memory would be lost; name a file: sqlite:////var/lib/node/ledger.sqlite")
    return parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        # A server may be set to answer before its log is on the disk; here what is acknowledged is kept.
        options = f"{url.query.get('options', '')} -c synchronous_commit=on"
        return create_engine(url, hide_parameters=True, pool_pre_ping=True,
                             connect_args={"options": options, "connect_timeout": BUSY_SECONDS})
    path = Path(url.database or "")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Made here for its mode, which SQLite gives to its log too.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _set_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None     # Python's sqlite3 leaves BEGIN to us
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _reason(error: Exception) -> str:
    """The driver's own words, on one line: they can name a table or a host, never a value."""
    return " ".join(str(getattr(error, "orig", None) or error).split())[:300]
