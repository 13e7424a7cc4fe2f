"""What a node does beside serving: usage reports, and top-ups that a process which died had left open.

In a thread with an event loop of its own, so that it begins with the node, not with the first request, and needs
nothing of the server's loop.
"""

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx

from nearfield.core.errors import NearfieldError

PAUSE_SECONDS = 30.0
"""Before what failed begins again."""

Job = Callable[[httpx.AsyncClient], Coroutine[Any, Any, object]]


class Background:
    """Runs `jobs` until `close`; each gets the thread's HTTP client. One that fails begins again, after a pause."""

    def __init__(self, *jobs: Job) -> None:
        self._jobs = jobs
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="nearfield-node", daemon=True)
        if jobs:
            self._thread.start()

    def close(self) -> None:
        """End the jobs and the thread."""
        if self._jobs:
            self._loop.call_soon_threadsafe(self._cancel)
            self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        self._task = self._loop.create_task(self._work())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            return

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await asyncio.gather(*(_guarded(job, client) for job in self._jobs))


async def _guarded(job: Job, client: httpx.AsyncClient) -> None:
    while True:
        try:
            await job(client)
            return
        except NearfieldError as error:
            why = str(error)
        except Exception as error:     # its words may quote what is not ours to log
            frames = traceback.extract_tb(error.__traceback__)
            why = f"{type(error).__name__} in {frames[-1].name}, {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        logging.getLogger("nearfield").error("the node's work in the background failed, and begins again in %g s: %s",
                                             PAUSE_SECONDS, why)
        await asyncio.sleep(PAUSE_SECONDS)
