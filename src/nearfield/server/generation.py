"""The bridge between the engine's thread and the event loop: many engine requests as one async stream.

Outputs cross over through `call_soon_threadsafe` into a queue. The queue holds at most the tokens that
its requests may still make, so a reader that is slow, or reads nothing, costs bounded memory; it does not
hold up the engine.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from nearfield.core.errors import EngineStoppedError, NearfieldError
from nearfield.core.request import Output, Request
from nearfield.core.types import FinishReason, RequestId
from nearfield.server.metrics import Stopwatch
from nearfield.server.service import Service

Batch = list[tuple[int, Output]]
"""What arrived since the last look: the request's index and its output."""


class Generation:
    """Runs `requests`. `start` it, read `batches` to the end, and `cancel` it in any case."""

    def __init__(self, service: Service, requests: Sequence[Request]) -> None:
        self._service = service
        self._requests = requests
        self._queue: asyncio.Queue[tuple[int, Output | NearfieldError]] = asyncio.Queue()
        self._events = asyncio.get_running_loop()
        self._running: set[RequestId] = set()
        self._unread = len(requests)
        now = time.perf_counter()
        self._watches = [Stopwatch(service.metrics, now) for _ in requests]

    def start(self) -> None:
        """Hand all requests to the engine, or none. Raises as EngineLoop.submit does."""
        try:
            for index, request in enumerate(self._requests):
                self._submit(index, request)
        except NearfieldError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Free what still runs. May be called at any time, more than once."""
        for request_id in self._running:
            self._service.loop.cancel(request_id)
            self._service.metrics.ended(FinishReason.ABORT.value)
        self._running.clear()

    async def batches(self, patience: float) -> AsyncIterator[Batch]:
        """What the engine made, as it comes; an empty batch after each `patience` seconds of silence.

        Ends when every request has finished. Raises NearfieldError when the engine failed one of them.
        """
        while self._unread:
            try:
                async with asyncio.timeout(patience):
                    first = await self._queue.get()
            except TimeoutError:
                yield []
                continue
            arrived = [first]
            while not self._queue.empty():
                arrived.append(self._queue.get_nowait())
            yield [(index, self._checked(result)) for index, result in arrived]

    def _submit(self, index: int, request: Request) -> None:
        def on_output(result: Output | NearfieldError) -> None:
            """Called in the engine's thread."""
            at = time.perf_counter()
            try:
                self._events.call_soon_threadsafe(self._arrived, index, result, at)
            except RuntimeError:
                # The event loop has closed: the server was told twice to stop, and nobody listens.
                return

        self._service.loop.submit(request, on_output)
        self._running.add(request.request_id)

    def _arrived(self, index: int, result: Output | NearfieldError, at: float) -> None:
        if isinstance(result, Output):
            self._watches[index].saw(result, at)
        else:
            self._service.metrics.ended("error")
        if _is_last(result):
            self._running.discard(self._requests[index].request_id)
        self._queue.put_nowait((index, result))

    def _checked(self, result: Output | NearfieldError) -> Output:
        """Raises what the engine reports; a request that the server itself gave up is an error as well."""
        self._unread -= _is_last(result)
        if isinstance(result, NearfieldError):
            raise result
        if result.finish_reason is FinishReason.ABORT:
            raise EngineStoppedError("the request was aborted")
        return result


def _is_last(result: Output | NearfieldError) -> bool:
    return isinstance(result, NearfieldError) or result.finish_reason is not None
