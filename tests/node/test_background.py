"""The work beside serving: one job's failure is logged and not its end, nor another's."""

import asyncio
import logging
import threading
from pathlib import Path

import httpx
import pytest

from nearfield.core.errors import ConfigError
from nearfield.node import background
from nearfield.node.background import Background
from nearfield.node.build import open_node
from nearfield.node.config import NodeConfig
from nearfield.node.credits import Credits
from nearfield.node.errors import IdentityError, NodeError
from nearfield.node.identity import create
from nearfield.server.keys import KeyRing


@pytest.mark.parametrize("error", [NodeError(503, "the ledger is away"), RuntimeError("the-secret-token"),
                                   ExceptionGroup("many", [ValueError("the-secret-token")])], ids=repr)
def test_a_job_that_fails_begins_again(error: Exception, monkeypatch: pytest.MonkeyPatch,
                                       caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.01)
    caplog.set_level(logging.ERROR, "nearfield")
    done, other = threading.Event(), threading.Event()
    attempts = 0

    async def job(client: httpx.AsyncClient) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise error
        done.set()

    async def steady(client: httpx.AsyncClient) -> None:
        while not done.is_set():
            await asyncio.sleep(0.01)
        other.set()

    running = Background(job, steady)
    assert done.wait(20) and other.wait(20)
    running.close()
    assert attempts == 3 and caplog.text.count("begins again") == 2
    assert "the-secret-token" not in caplog.text
    assert ("the ledger is away" if isinstance(error, NodeError) else "in job, test_background.py") in caplog.text


def test_closing_does_not_wait_for_the_pause(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()

    async def job(client: httpx.AsyncClient) -> None:
        failed.set()
        raise RuntimeError

    running = Background(job)
    assert failed.wait(20)
    closing = threading.Thread(target=running.close)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()


def test_one_process_is_a_node(tmp_path: Path) -> None:
    create(tmp_path / "home")
    first = open_node(tmp_path / "home", NodeConfig(), "m", KeyRing())
    Credits(first.ledger).grant("1", "key:a", 100)
    assert first.ledger.reserve("key:a", 60, 60)
    with pytest.raises(IdentityError, match="another process serves as this node.*NEARFIELD_NODE_HOME"):
        open_node(tmp_path / "home", NodeConfig(), "m", KeyRing())
    assert first.ledger.account("key:a").reserved == 60     # for the answers that it is making
    first.close()
    open_node(tmp_path / "home", NodeConfig(), "m", KeyRing()).close()


def test_a_node_that_could_not_be_opened_lets_go(tmp_path: Path) -> None:
    create(tmp_path / "home")
    config = NodeConfig(usage_url="http://b", usage_token_file=tmp_path / "none")
    with pytest.raises(ConfigError, match="can not read the token"):
        open_node(tmp_path / "home", config, "m", KeyRing())
    open_node(tmp_path / "home", NodeConfig(), "m", KeyRing()).close()
