"""What a model costs to serve: bytes, memory, tokens a second; two models in turn, each in a process of its own.

A process that has held another model would tell that one's memory. The machine's speed may change within a minute, so
that the two take turns (A B A B) and the better of each is told.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from nearfield.bench.offline import first_token_seconds, start_all, step_seconds
from nearfield.bench.workload import Prompts, Subject, peak_rss_gib, requests
from nearfield.models.loader import weight_bytes
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config

TURNS = 2
_PROMPT, _OUTPUT = 512, 64
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Footprint:
    """Bytes of weights on disk, peak memory of the process, tokens a second of a prompt, and of one answer."""

    bytes: int
    peak_rss_gib: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


def side_by_side(first: Path, second: Path) -> tuple[Footprint, Footprint]:
    """The footprints of the models in two folders."""
    positions = min(read_spec(Config.load(folder / "config.json")).max_positions for folder in (first, second))
    prompt = min(_PROMPT, positions // 2)
    output = min(_OUTPUT, positions // 4)
    turns = [[_apart(folder, prompt, output) for folder in (first, second)] for _ in range(TURNS)]
    one, other = (Footprint(runs[0].bytes, max(run.peak_rss_gib for run in runs),
                            max(run.prefill_tokens_per_s for run in runs),
                            max(run.decode_tokens_per_s for run in runs)) for runs in zip(*turns, strict=True))
    return one, other


def _apart(folder: Path, prompt: int, output: int) -> Footprint:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, folder, prompt, output).result()


def _measure(folder: Path, prompt: int, output: int) -> Footprint:
    loaded, _ = Subject(str(folder), {"pack_cache": False}).load(1, prompt + output + 8)
    prompts, engine = Prompts(loaded.spec.vocab_size), loaded.engine
    first_token_seconds(engine, prompts.ids(prompt))    # the first prompt pays for memory that the next ones find
    prefill = median(first_token_seconds(engine, prompts.ids(prompt)) for _ in range(3))
    start_all(engine, requests([prompts.ids(prompt)], max_tokens=None))
    decode = step_seconds(engine, 1, output)
    return Footprint(weight_bytes(folder), _peak_gib(), round(prompt / prefill, 1), round(1 / decode, 2))


def _peak_gib() -> float:
    """The most memory that this program has had. What getrusage tells begins with the parent's on Linux."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return peak_rss_gib()
    return round(int(line.split()[1]) / 2**20, 3)
