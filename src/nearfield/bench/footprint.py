"""What a model costs to serve: bytes, memory, tokens a second; two models in turn, each in a process of its own.

A process that has held another model would tell that one's memory. The machine's speed may change within a minute, so
that the two take turns (A B A B), and of all that was timed the median is told, with the slowest and the fastest.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import median

from nearfield.bench.offline import first_token_seconds, start_all, step_seconds
from nearfield.bench.workload import Prompts, Subject, peak_rss_gib, requests
from nearfield.models.loader import weight_bytes
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config

TURNS, TIMES = 2, 4
"""Turns of each model, and in each how often its prompt is timed, and its answer in parts."""

_PROMPT, _OUTPUT = 512, 64
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Footprint:
    """Bytes of weights on disk, peak memory of the process, and tokens a second of a prompt and of one answer: medians
    of all turns, and the ranges (slowest, fastest) that they are of."""

    bytes: int
    peak_rss_gib: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prefill_range: tuple[float, float]
    decode_range: tuple[float, float]


@dataclass(frozen=True)
class Turn:
    """What one process has measured: bytes, GiB, and tokens a second each time."""

    bytes: int
    peak_rss_gib: float
    prefill: tuple[float, ...]
    decode: tuple[float, ...]


def side_by_side(first: Path, second: Path) -> tuple[Footprint, Footprint]:
    """The footprints of the models in two folders."""
    positions = min(read_spec(Config.load(folder / "config.json")).max_positions for folder in (first, second))
    prompt = min(_PROMPT, positions // 2)
    output = min(_OUTPUT, positions // 4)
    turns = [[_apart(folder, prompt, output) for folder in (first, second)] for _ in range(TURNS)]
    one, other = map(summary, zip(*turns, strict=True))
    return one, other


def summary(turns: Sequence[Turn]) -> Footprint:
    """The turns of one model in one."""
    prefill = [round(rate, 1) for turn in turns for rate in turn.prefill]
    decode = [round(rate, 2) for turn in turns for rate in turn.decode]
    return Footprint(turns[0].bytes, max(turn.peak_rss_gib for turn in turns), round(median(prefill), 1),
                     round(median(decode), 2), (min(prefill), max(prefill)), (min(decode), max(decode)))


def _apart(folder: Path, prompt: int, output: int) -> Turn:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            with _interrupts_ignored():     # the process has that from us: Ctrl-C is ours to tell, and ends it
                found = pool.submit(_measure, folder, prompt, output)
            return found.result()
        except KeyboardInterrupt:
            for process in active_children():
                process.terminate()
            raise


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Where signals are minded, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _measure(folder: Path, prompt: int, output: int) -> Turn:
    loaded, _ = Subject(str(folder), {"pack_cache": False}).load(1, prompt + output + 8)
    prompts, engine = Prompts(loaded.spec.vocab_size), loaded.engine
    first_token_seconds(engine, prompts.ids(prompt))    # the first prompt pays for memory that the next ones find
    prefill = [prompt / first_token_seconds(engine, prompts.ids(prompt)) for _ in range(TIMES)]
    start_all(engine, requests([prompts.ids(prompt)], max_tokens=None))
    decode = [1 / step_seconds(engine, 1, max(1, output // TIMES)) for _ in range(TIMES)]
    return Turn(weight_bytes(folder), _peak_gib(), tuple(prefill), tuple(decode))


def _peak_gib() -> float:
    """The most memory that this program has had. What getrusage tells begins with the parent's on Linux."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return peak_rss_gib()
    return round(int(line.split()[1]) / 2**20, 3)
