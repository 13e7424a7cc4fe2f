"""What the ledger did not take when an answer ended: tried again until it does.

A client may have had its answer by then, so that what it owes must not be forgotten because the disk was full for a
minute. It is kept in memory: what is still open when the process ends is named in the log, without its words.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from nearfield.node.errors import NodeError

FIRST_PAUSE = 1.0
MAX_PAUSE = 60.0

Write = Callable[[], object]
"""Writes to the ledger. May be called again after a NodeError, whether that was before or after its commit."""


class Arrears:
    """Writes that wait for the ledger, in order. Belongs to one event loop."""

    def __init__(self) -> None:
        self._open: deque[Write] = deque()
        self._work: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    async def write(self, write: Write) -> None:
        """Do it now, or later where the ledger does not take it."""
        try:
            await asyncio.to_thread(write)
        except NodeError:      # the ledger's, which has logged it
            self._open.append(write)
            if self._work is None or self._work.done():
                self._work = asyncio.get_running_loop().create_task(self._until_taken())

    async def aclose(self) -> None:
        """A last attempt for each."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        lost = 0
        while self._open:
            try:
                await asyncio.to_thread(self._open[0])
            except NodeError:
                lost += 1
            self._open.popleft()
        if lost:
            logging.getLogger("nearfield").error("the ledger did not take the end of %d answers: what they cost was "
                                                 "not charged", lost)

    async def _until_taken(self) -> None:
        pause = FIRST_PAUSE
        while self._open:
            await asyncio.sleep(pause)
            try:
                await asyncio.to_thread(self._open[0])
            except NodeError:
                pause = min(2 * pause, MAX_PAUSE)
                continue
            self._open.popleft()
            pause = 0.0
