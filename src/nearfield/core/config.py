"""The options of an engine. Frozen; checked when made."""

from dataclasses import dataclass
from typing import Literal

from nearfield.core.errors import ConfigError

DType = Literal["bf16", "fp16", "fp32"]
DTYPES: tuple[DType, ...] = ("bf16", "fp16", "fp32")
Weights = Literal["dense", "w8", "w4"]
WEIGHTS: tuple[Weights, ...] = ("dense", "w8", "w4")


@dataclass(frozen=True)
class EngineConfig:
    """How an engine uses the machine.

    dtype: of activations, K/V and dense weights. weights: None takes them as the folder stores them; dense,
    or int8 (w8) or int4 (w4) codes, made at load, of a folder that stores them dense; `group` columns share a
    scale (None: a row in w8, 64 columns in w4). isa, threads: which C++ kernels, and on how many threads (None:
    the best here, and as many as this process may use). pack_cache: keep w8 and w4 weights, as the kernels read
    them, in the user's cache for the next start.
    kv_memory: bytes of the KV cache, allocated once.
    max_seqs: rows in a step at most. max_context: tokens of one request at most, prompt and answer
    (None: what the model and the cache hold). max_step_tokens: tokens computed in one step at most,
    the chunk of chunked prefill. max_waiting: requests that may queue. prefix_cache: share prefixes.
    """

    dtype: DType = "bf16"
    kv_memory: int = 1 << 30
    page_size: int = 16
    max_seqs: int = 64
    max_context: int | None = None
    max_step_tokens: int = 512
    max_waiting: int = 1024
    prefix_cache: bool = True
    weights: Weights | None = None
    group: int | None = None
    isa: str | None = None
    threads: int | None = None
    pack_cache: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.weights is not None and self.weights not in WEIGHTS:
            raise ConfigError(f"weights must be one of {', '.join(WEIGHTS)}, got {self.weights!r}")
        if self.group is not None and self.weights not in ("w8", "w4"):
            raise ConfigError("group says how many columns of w8 or w4 weights share a scale: give weights too "
                              "(--weights w8 or w4), or leave it out")
        if self.threads is not None:
            _check_count("threads", self.threads)
        for name in ("kv_memory", "page_size", "max_seqs", "max_step_tokens", "max_waiting"):
            _check_count(name, getattr(self, name))
        if self.max_context is not None:
            _check_count("max_context", self.max_context)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_bytes(text: str) -> int:
    """Read a size such as 4GiB, 512MiB, 1.5GB or 1048576 as bytes. Raises ConfigError."""
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number):].strip().lower()
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        raise ConfigError(f"{text!r} is not a size; write it like 4GiB or 512MiB") from None
    if not 0 < value < 2**63:
        raise ConfigError(f"{text!r} is not a usable size; write it like 4GiB or 512MiB")
    return int(value)


def format_figure(value: float) -> str:
    """Write a positive number for people, to five digits: 3.1416, 25,880, 123,456."""
    return f"{value:,.0f}" if value >= 10_000 else f"{value:.5g}"


def format_bytes(count: int) -> str:
    """Write a number of bytes for people: 1.50 GiB, 3.2 MiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
