"""kill -9 between an answer and its record: nothing acknowledged is lost, nothing is counted twice.

A child records usage, one id after the other, and writes each id to a pipe when the ledger has taken it. It is killed
at a random moment; a new one begins with the first id that it has not seen acknowledged, which may be in the books
already. In the end the books must hold every id once, and the sum of their charges.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from queue import Queue

import pytest

from nearfield.node.accounts import key_payer
from nearfield.node.credits import Credits
from nearfield.node.database import Database
from nearfield.node.ledger import Ledger
from tests.node.ledger.doubles import usage

KEY = key_payer("sk-" + "k" * 40)
PRICE = 3

CHILD = """
import os, signal, sys
from nearfield.node.database import Database
from nearfield.node.ledger import Ledger
from nearfield.node.usage import Usage

url, payer, pipe = sys.argv[1], sys.argv[2], int(sys.argv[3])

def serve(ledger, number, fatal):
    ledger.start()
    os.write(pipe, b"up\\n")
    while True:
        reservation = ledger.reserve(payer, PRICE, PRICE)
        if fatal == "reserved":
            os.kill(os.getpid(), signal.SIGKILL)
        new = ledger.record(Usage(f"r{number}", "org/model", 10, 0, 5), PRICE, reservation, PRICE)
        if fatal == "recorded":
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(pipe, b"" if new else b"known\\n")
        os.write(pipe, f"{number}\\n".encode())
        number += 1

# A fork for each life: what takes time is Python's imports, which have nothing to lose.
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        first, _, fatal = line.strip().partition(" ")
        serve(Ledger(Database(url), node="n", reports=True), int(first), fatal)
    os.write(pipe, f"pid {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(pipe, b"dead\\n")
"""


class Lives:
    """Starts the child again and again, and listens to its pipe."""

    def __init__(self, url: str) -> None:
        read, write = os.pipe()
        program = CHILD.replace("PRICE", str(PRICE))
        self._parent = subprocess.Popen([sys.executable, "-c", program, url, KEY, str(write)],
                                        stdin=subprocess.PIPE, pass_fds=[write])
        os.close(write)
        self.known = 0
        self._heard: Queue[str] = Queue()
        self._listener = threading.Thread(target=self._listen, args=(read,))
        self._listener.start()

    def _listen(self, read: int) -> None:
        with os.fdopen(read) as pipe:
            for line in pipe:
                self._heard.put(line.strip())

    def live(self, first: int, acknowledged: int, seconds: float) -> int:
        """A life that begins with the id `first` and is killed `seconds` after so many ids were acknowledged.

        Returns the next id to ask for; `known` counts the ids that were in the books without having been acknowledged.
        """
        self._begin(f"{first}")
        pid, up = 0, False
        ids: list[int] = []
        while not (pid and up and len(ids) >= acknowledged):
            word, _, rest = self._heard.get(timeout=30).partition(" ")
            pid, up = int(rest or pid), up or word == "up"
            self._note(word, ids)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return self._end(first, ids)

    def fatal(self, first: int, moment: str) -> int:
        """A life that ends by itself at `moment`, before it has acknowledged anything."""
        self._begin(f"{first} {moment}")
        return self._end(first, [])

    def _begin(self, line: str) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"{line}\n".encode())
        self._parent.stdin.flush()

    def _end(self, first: int, ids: list[int]) -> int:
        while (word := self._heard.get(timeout=30)) != "dead":
            self._note(word, ids)
        assert ids == list(range(first, first + len(ids)))
        return first + len(ids)

    def _note(self, word: str, ids: list[int]) -> None:
        self.known += word == "known"
        if word.isdigit():
            ids.append(int(word))

    def close(self) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(30)
        self._listener.join(30)


def _kill_and_count(url: str, lives: int) -> None:
    database = Database(url)
    ledger = Ledger(database)
    assert Credits(ledger).grant("funds", KEY, 10**9)
    chance = random.Random(9)
    child = Lives(url)
    following = 0
    try:
        # The two moments that matter, whether or not chance will find them.
        assert child.fatal(0, "reserved") == child.fatal(0, "recorded") == 0
        for _ in range(lives):
            following = child.live(following, chance.randrange(1, 4), chance.random() * 0.02)
    finally:
        child.close()
    totals = ledger.totals()
    responses = totals[0].responses if totals else 0
    # Every acknowledged id is there, once; the one in flight at the last kill may be there too.
    for number in range(following):
        charge = ledger.response(f"r{number}")
        assert charge is not None and (charge.usage, charge.cost_nano) == (usage(f"r{number}"), PRICE), number
    assert responses in (following, following + 1)
    ledger_now = Ledger(database, node="n")
    ledger_now.start()
    account = ledger_now.account(KEY)
    assert (account.spent, account.reserved) == (responses * PRICE, 0)
    print(f"{lives} kills: {following} acknowledged, {responses} in the books, {child.known} of these were there "
          "before they were acknowledged")
    assert child.known
    database.close()


def test_ten_kills(ledger_url: str) -> None:
    _kill_and_count(ledger_url, 10)


@pytest.mark.slow
def test_two_hundred_kills(ledger_url: str) -> None:
    _kill_and_count(ledger_url, 200)
