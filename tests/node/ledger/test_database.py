"""Opening a ledger: what is made, and what is refused with its reason."""

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from nearfield.node.database import ACCOUNTS, MAX_UNITS, VERSION, Database, LedgerError


def test_amounts_of_128_bits_come_back_and_sort(database: Database) -> None:
    amounts = [0, 1, 9, 10, 2**63, 10**24, MAX_UNITS]
    with database.write() as connection:
        for number, amount in enumerate(amounts):
            connection.execute(insert(ACCOUNTS).values(payer=str(number), added=amount, spent=0))
    with database.read() as connection:
        found = connection.execute(select(ACCOUNTS.c.added).order_by(ACCOUNTS.c.added.desc())).scalars().all()
    assert found == amounts[::-1]


@pytest.mark.parametrize("amount", [-1, MAX_UNITS + 1])
def test_other_amounts_are_refused(database: Database, amount: int) -> None:
    with pytest.raises(LedgerError), database.write() as connection:
        connection.execute(insert(ACCOUNTS).values(payer="x", added=amount, spent=0))


def test_the_database_itself_refuses_an_overdraft(database: Database) -> None:
    with pytest.raises(LedgerError, match="can not be written") as caught, database.write() as connection:
        connection.execute(insert(ACCOUNTS).values(payer="x", added=9, spent=10))
    assert caught.value.status == 503
    assert database.place not in caught.value.message


def test_what_raises_is_undone(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(insert(ACCOUNTS).values(payer="x", added=9, spent=0))
        raise ZeroDivisionError
    with database.read() as connection:
        assert not connection.execute(select(ACCOUNTS)).all()


def test_it_opens_again_and_keeps_what_it_has(ledger_url: str) -> None:
    first, second = Database(ledger_url), Database(ledger_url)
    with first.write() as connection:
        connection.execute(insert(ACCOUNTS).values(payer="x", added=9, spent=0))
    with second.read() as connection:
        assert connection.execute(select(ACCOUNTS.c.added)).scalar_one() == 9
    first.close()
    second.close()


def test_another_version_is_refused(ledger_url: str) -> None:
    first = Database(ledger_url)
    with first.write() as connection:
        connection.execute(VERSION.update().values(schema_version=7))
    first.close()
    with pytest.raises(LedgerError, match="has schema 7, and this Nearfield reads 1"):
        Database(ledger_url)


def test_tables_of_another_program_are_left_alone(ledger_url: str) -> None:
    first = Database(ledger_url)
    with first.write() as connection:
        connection.execute(text("drop table ledger"))
    first.close()
    with pytest.raises(LedgerError, match="is no ledger: it has tables named accounts"):
        Database(ledger_url)


def test_processes_may_open_a_new_ledger_at_once(ledger_url: str) -> None:
    program = "import sys; from nearfield.node.database import Database; Database(sys.argv[1])"
    children = [subprocess.Popen([sys.executable, "-c", program, ledger_url], stderr=subprocess.PIPE) for _ in range(4)]
    for child in children:
        _, complaint = child.communicate(timeout=60)
        assert child.returncode == 0, complaint.decode()


def test_only_its_owner_reads_a_new_file(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new/ledger.sqlite")
    with database.write() as connection:
        connection.execute(insert(ACCOUNTS).values(payer="x", added=9, spent=0))
        files = list((tmp_path / "new").iterdir())
        assert len(files) == 3      # the file, its log and its index
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    database.close()


def test_sqlite_syncs_every_commit(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    with database.read() as connection:
        assert connection.execute(text("pragma journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("pragma synchronous")).scalar_one() == 2
    database.close()


def test_postgresql_syncs_every_commit(postgres_server: str) -> None:
    database = Database(f"{postgres_server}&options=-csearch_path%3Dpg_temp%20-csynchronous_commit%3Doff")
    with database.read() as connection:
        assert connection.execute(text("show synchronous_commit")).scalar_one() == "on"
    database.close()


@pytest.mark.parametrize(("url", "reason"), [
    ("ledger.sqlite", "not an SQLAlchemy URL"), ("mysql://h/d", "sqlite or postgresql, not by 'mysql'"),
    ("sqlite://", "in memory would be lost"), ("sqlite:///:memory:", "in memory would be lost"),
])
def test_urls_that_are_none(url: str, reason: str) -> None:
    with pytest.raises(LedgerError, match=reason):
        Database(url)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello" * 1000)
    with pytest.raises(LedgerError, match="can not open the ledger .*x: file is not a database"):
        Database(f"sqlite:///{tmp_path}/x")


def test_a_server_that_is_not_there_keeps_the_password_out(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="can not open the ledger postgresql") as caught:
        Database(f"postgresql://me:hunter2@/x?host={tmp_path}")
    assert "hunter2" not in str(caught.value)


def test_a_ledger_that_is_busy_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfield.node.database.BUSY_SECONDS", 0.05)
    database = Database(f"sqlite:///{tmp_path}/ledger.sqlite")
    other = sqlite3.connect(tmp_path / "ledger.sqlite")
    other.execute("begin immediate")
    with pytest.raises(LedgerError) as caught, database.write():
        pass
    assert caught.value.status == 503
    other.rollback()
    other.close()
    database.close()
