"""A bar of progress with the time left, on a terminal only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def shown(desc: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a block; gives what tells it the units that are done, and all."""
    from tqdm import tqdm

    with tqdm(desc=desc, unit=unit, disable=None, leave=False) as bar:
        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = bar.n = done      # what an earlier run did took no time in this one
            bar.total = total
            bar.update(done - bar.n)
        yield show
