"""A PostgreSQL server of our own for a test run: a folder, a Unix socket, no network; gone when the run ends."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _user() -> str | None:
    """Whom the server runs as: ourselves, or another where we are root, whom it refuses."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a fresh server's database; skips, saying why, where there is no PostgreSQL."""
    for name in ("postgres", "initdb"):
        if shutil.which(name) is None:
            pytest.skip(f"PostgreSQL is not here: no {name} on the PATH")
    user = _user()
    # Not under pytest's own folder, which another user can not enter.
    folder = Path(tempfile.mkdtemp(prefix="nearfield-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        subprocess.run(["initdb", "-N", "-A", "trust", "-U", "ledger", "-E", "UTF8", "--locale=C",
                        "-D", folder / "data"], user=user, check=True, capture_output=True, cwd=folder)
        server = subprocess.Popen(["postgres", "-D", folder / "data", "-k", folder, "-h", ""], user=user, cwd=folder,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _await(folder / ".s.PGSQL.5432", server)
            yield f"postgresql://ledger@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGQUIT)      # at once, and without a last sync of what is thrown away
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await(socket: Path, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(300):
        if socket.exists():
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail("the PostgreSQL server did not start")
