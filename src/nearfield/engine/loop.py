"""The engine's thread: the only file with threads in it.

Callers put requests and cancellations into a box; the thread empties it before each step. Nothing
but the thread touches the engine, so no step waits for a lock and no caller waits for a step.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nearfield.core.errors import EngineStoppedError, InvalidRequestError, NearfieldError, QueueFullError
from nearfield.core.request import EngineStats, Output, Request
from nearfield.core.types import FinishReason, RequestId
from nearfield.engine.engine import Engine

OnOutput = Callable[[Output | NearfieldError], None]

_OVERFLOW = ("the model's numbers overflowed on this request; fp32 or bf16 have the range that fp16 lacks "
             "(--dtype)")

_log = logging.getLogger("nearfield.engine")


@dataclass
class _Box:
    """What callers want of the thread. Read and written under the loop's condition."""

    submitted: list[Request] = field(default_factory=list)
    cancelled: list[RequestId] = field(default_factory=list)


class EngineLoop:
    """Runs an engine in a thread. Every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = threading.Condition()
        self._box = _Box()
        self._callbacks: dict[RequestId, OnOutput] = {}
        self._stats = engine.stats()
        self._draining = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="nearfield-engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, request: Request, on_output: OnOutput) -> None:
        """Queue a request; `on_output` gets each Output, or one error, in the engine's thread.

        Raises InvalidRequestError, ContextLengthError, QueueFullError, EngineStoppedError.
        """
        self._engine.validate(request)
        name = request.request_id
        with self._wake:
            if self._draining or self._stopping or not self.alive:
                raise EngineStoppedError("the server is shutting down and takes no new requests")
            if name in self._callbacks:
                raise InvalidRequestError(f"request id {name!r} is in use; choose another", "request_id")
            limit = self._engine.config.max_waiting
            if self._stats.waiting + len(self._box.submitted) >= limit:
                raise QueueFullError(f"{limit} requests are waiting already; try again later")
            self._callbacks[name] = on_output
            self._box.submitted.append(request)
            self._wake.notify_all()

    def cancel(self, request_id: RequestId) -> None:
        """Free a request at the next step's start; its callback is not called again after that."""
        with self._wake:
            self._box.cancelled.append(request_id)
            self._wake.notify_all()

    def stats(self) -> EngineStats:
        """The engine's figures after its last step."""
        return self._stats

    def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests and wait for the others; False if some are left after `timeout` seconds."""
        with self._wake:
            self._draining = True
            return self._wake.wait_for(self._idle, timeout)

    def stop(self) -> None:
        """End the thread after its current step; requests still there get an EngineStoppedError."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _idle(self) -> bool:
        return not self._callbacks

    def _run(self) -> None:
        try:
            while self._take():
                self._step()
        finally:
            self._stopping = True
            self._fail(list(self._callbacks), EngineStoppedError("the server has stopped"))

    def _step(self) -> None:
        with self._wake:   # those that arrive while the step runs are not part of it
            taken = self._callbacks.keys() - {request.request_id for request in self._box.submitted}
        try:
            outputs = self._engine.step()
        except Exception:
            _log.exception("a step failed; its requests are given up")
            self._fail(taken, NearfieldError("the engine failed on this request's step"))
            return
        for output in outputs:
            if output.finish_reason is FinishReason.ABORT:
                self._deliver(output.request_id, NearfieldError(_OVERFLOW), last=True)
            else:
                self._deliver(output.request_id, output, last=output.finish_reason is not None)
        self._publish()

    def _take(self) -> bool:
        """Wait for something to do and take it over. False when the loop shall end."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._engine.has_work or self._box.submitted
                                or self._box.cancelled)
            box, self._box = self._box, _Box()
        for request in box.submitted:
            self._add(request)
        for request_id in box.cancelled:
            self._forget(request_id)
        self._publish()
        return not self._stopping

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except NearfieldError as error:
            self._deliver(request.request_id, error, last=True)
        except Exception:
            _log.exception("request %s could not be added", request.request_id)
            self._deliver(request.request_id, NearfieldError("the engine failed on this request"), last=True)

    def _deliver(self, request_id: RequestId, message: Output | NearfieldError, *, last: bool) -> None:
        callback = self._callbacks.get(request_id)
        if callback is None:
            return
        try:
            callback(message)
        except Exception:
            _log.exception("the receiver of request %s failed; the request is cancelled", request_id)
            last = True
        if last:
            self._forget(request_id)

    def _forget(self, request_id: RequestId) -> None:
        self._engine.cancel(request_id)
        with self._wake:
            self._callbacks.pop(request_id, None)
            self._wake.notify_all()

    def _fail(self, request_ids: Iterable[RequestId], error: NearfieldError) -> None:
        for request_id in request_ids:
            self._deliver(request_id, error, last=True)
        self._publish()

    def _publish(self) -> None:
        self._stats = self._engine.stats()
