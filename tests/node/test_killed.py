"""A node that is killed as it answers: what a client has seen whole is in the ledger once, and was paid for once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from nearfield.node.accounts import key_payer
from nearfield.node.build import open_ledger
from nearfield.node.config import NodeConfig
from nearfield.node.credits import Credits
from nearfield.node.database import RESPONSES
from nearfield.node.identity import create
from nearfield.node.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-" + "k" * 40
DONE = b"data: [DONE]\n\n"
CLIENTS = 4
COST = {"prompt_tokens": 1000, "completion_tokens": 2000}     # nano-dollars: what serve_node asks


@dataclass
class Seen:
    """The last events, or bodies, of the answers that clients have seen whole. Appending is atomic."""

    answers: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def nurse(step: str, model: str = "fake") -> Iterator["subprocess.Popen[str]"]:
    """The process that starts nodes."""
    command = [sys.executable, "-m", "tests.node.serve_node", model, step]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def start(nursery: "subprocess.Popen[str]", home: Path) -> tuple[int, str]:
    """A new node: its process and its URL."""
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(f"{home}\n")
    nursery.stdin.flush()
    pid, port = nursery.stdout.readline().split()
    return int(pid), f"http://127.0.0.1:{port}"


def ask_until_killed(url: str, seen: Seen, first: threading.Event, seed: int) -> None:
    """Ask, JSON and streams in turn, until nobody answers; note what arrived whole."""
    chance = random.Random(seed)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=10) as http:
        while True:
            stream = chance.random() < 0.5
            body = {"model": "fake", "prompt": "Hi", "stream": stream, "max_tokens": chance.randint(1, 20)}
            data = b""
            try:
                with http.stream("POST", "/v1/completions", json=body) as reply:
                    assert reply.status_code == 200, reply.read()
                    for chunk in reply.iter_raw():
                        data += chunk
                        if data.endswith(DONE):
                            seen.answers.append(json.loads(data.split(b"\n\n")[-3].removeprefix(b"data: ")))
                    if not stream:
                        seen.answers.append(json.loads(data))
            except httpx.TransportError:
                return
            first.set()


def check(ledger: Ledger, seen: Seen) -> None:
    """The books agree with themselves, and with what clients have seen."""
    with ledger.database.read() as connection:
        rows = {row.id: row for row in connection.execute(select(RESPONSES))}
    ids = [answer["id"] for answer in seen.answers]
    assert len(set(ids)) == len(ids)
    for answer in seen.answers:
        row = rows[answer["id"]]
        usage = answer["usage"]
        assert (row.prompt_tokens, row.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert row.charged == sum(COST[name] * usage[name] for name in COST)
    account = ledger.account(key_payer(KEY))
    assert account.spent == sum(row.charged for row in rows.values())


def kill_at_random(home: Path, rounds: int, seed: int) -> None:
    create(home)
    ledger, seen, chance = open_ledger(home, NodeConfig()), Seen(), random.Random(seed)
    Credits(ledger).grant("test", key_payer(KEY), 10**12)
    with nurse("0.0005") as nursery:
        for number in range(rounds):
            pid, url = start(nursery, home)
            assert ledger.account(key_payer(KEY)).reserved == 0      # those of the killed one were dropped
            first = threading.Event()
            clients = [threading.Thread(target=ask_until_killed, args=(url, seen, first, seed + CLIENTS * number + k))
                       for k in range(CLIENTS)]
            for client in clients:
                client.start()
            assert first.wait(20)
            threading.Event().wait(chance.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
            for client in clients:
                client.join(20)
            check(ledger, seen)
    assert len(seen.answers) >= rounds
    ledger.database.close()


def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    kill_at_random(tmp_path, rounds=8, seed=1)


@pytest.mark.slow
def test_nothing_that_was_acknowledged_is_lost_in_200_deaths(tmp_path: Path) -> None:
    kill_at_random(tmp_path, rounds=200, seed=2)
