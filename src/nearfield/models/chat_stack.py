"""Where a chat template is compiled and run: in a thread whose stack has room for all that it can nest.

CPython bounds recursion by a number of levels, and trusts that the C stack has room for them. The number is the
process's, and libraries raise it: some to 100,000, at which a macro that calls itself, or a list of lists that is
printed, ends the process. The hash of nested tuples is not bounded at all. So the stack is made as large as they can
need; that is address space, of which only what is touched becomes memory.
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from nearfield.core.errors import ModelError
from nearfield.models.chat_limits import MAX_STEPS

_LEVEL = 4096
"""Bytes of C stack for a level that Python counts: measured (x86-64, 3.11), a template's take less than 1024."""
_TUPLE = 256
"""Bytes for the hash of a tuple inside a tuple (measured: less than 108). To make one takes a template a step."""

_SIZING = threading.Lock()

Made = TypeVar("Made")


def with_room(work: Callable[[], Made]) -> Made:
    """What `work` returns or raises, done in a thread that has room for it.

    Raises ModelError when the process's recursion limit asks for a stack that can not be had.
    """
    outcome: Future[Made] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:     # whose it is, is the caller's business
            outcome.set_exception(error)

    _started(threading.Thread(target=run, name="nearfield-template", daemon=True)).join()
    return outcome.result()


def _started(thread: threading.Thread) -> threading.Thread:
    limit = sys.getrecursionlimit()
    with _SIZING:     # the size is a setting of the process, for threads to come
        before = threading.stack_size(max(limit * _LEVEL, MAX_STEPS * _TUPLE))
        try:
            thread.start()
        except RuntimeError:
            raise ModelError(f"no thread can be started for a chat template at the recursion limit of {limit}; "
                             "lower it (sys.setrecursionlimit), or allow more address space and threads") from None
        finally:
            threading.stack_size(before)
    return thread
