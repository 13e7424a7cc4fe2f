"""Processes of their own that start in milliseconds: forked from one that has imported torch and runs no thread."""

from collections.abc import Callable
from multiprocessing import get_context


def exit_code(work: Callable[..., None], *arguments: object) -> int | None:
    """How a process that does `work` ends: with 0, with 1 where it raises, or with minus the number of a signal.

    `work` is a module's function, and that module imports little: the process imports it anew.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["nearfield.compress.stages", "nearfield.compress.compose"])
    process = context.Process(target=work, args=arguments)
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    return code
