"""What both benches need: an engine of the right size, prompts that share nothing by chance, peak memory."""

import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nearfield.core.config import DType, EngineConfig
from nearfield.core.errors import ConfigError
from nearfield.core.request import Request, SamplingParams
from nearfield.engine.build import Loaded, load_engine
from nearfield.formats.manifest import read_manifest
from nearfield.kernels.ops import KVShape
from nearfield.kernels.select import TORCH_DTYPES
from nearfield.models.loader import find_model
from nearfield.models.registry import read_spec
from nearfield.models.spec import Config, ModelSpec

Report = Callable[[str], None]
"""Takes a line that says what is being done."""


@dataclass(frozen=True)
class Subject:
    """The model to measure. `random_weights`: the folder has a config.json and nothing else.

    `options` are EngineConfig's that say how weights are stored and multiplied: dtype, weights, group, isa,
    threads.
    """

    model: str | None
    options: Mapping[str, Any]
    random_weights: bool = False

    @property
    def stored(self) -> str:
        """How the weights are stored: the dtype, w8 or w4."""
        weights: str | None = self.options.get("weights")
        if weights is None and not self.random_weights:
            config = Config.load(find_model(self.model) / "config.json")
            manifest = read_manifest(config.data, config.path)
            weights = None if manifest is None else manifest.label
        return self.dtype if weights is None or weights == "dense" else weights

    @property
    def dtype(self) -> DType:
        """Of activations and K/V."""
        dtype: DType = self.options.get("dtype", EngineConfig.dtype)
        return dtype

    def load(self, requests: int, context: int) -> tuple[Loaded, float]:
        """An engine that holds `requests` of `context` tokens each, none preempted; and seconds it took.

        Raises ConfigError when the model's positions do not reach that far.
        """
        folder = find_model(self.model)
        spec = read_spec(Config.load(folder / "config.json"))
        if context > spec.max_positions:
            raise ConfigError(f"a request of {context} tokens (its prompt, its answer, and what it makes while the "
                              f"batch fills) is more than the {spec.max_positions} positions of the model; ask for "
                              "fewer tokens")
        config = replace(engine_config(spec, self.dtype, requests, context), **self.options)
        start = time.perf_counter()
        loaded = load_engine(folder, config, random_weights=self.random_weights, tokenizer=False)
        return loaded, time.perf_counter() - start


def engine_config(spec: ModelSpec, dtype: DType, requests: int, context: int) -> EngineConfig:
    """A config with KV memory for `requests` of `context` tokens each."""
    page = EngineConfig.page_size
    shape = KVShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, page)
    # A page more for each request's unfinished one, and two that a pool is never without.
    pages = requests * (context // page + 2) + 2
    return EngineConfig(dtype=dtype, kv_memory=pages * shape.page_bytes(TORCH_DTYPES[dtype]),
                        max_seqs=requests, max_context=context)


class Prompts:
    """Random token ids, the same for the same seed; no two prompts share a prefix, save by design."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._vocab_size = vocab_size

    def ids(self, length: int) -> tuple[int, ...]:
        """`length` ids."""
        return tuple(self._random.choices(range(self._vocab_size), k=length))


def requests(prompts: Sequence[tuple[int, ...]], max_tokens: int | None) -> list[Request]:
    """A greedy request for each prompt, which only `max_tokens` (or the context) ends."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return [Request(f"bench-{i}", prompt, params) for i, prompt in enumerate(prompts)]


def header(kind: str, loaded: Loaded, subject: Subject, load_s: float) -> dict[str, Any]:
    """The part of a result that says what was measured."""
    return {
        "kind": kind,
        "model": loaded.name,
        "weights": subject.stored,
        "kv": subject.dtype,
        "threads": loaded.ops.threads,
        "backend": loaded.ops.backend,
        "random_weights": subject.random_weights,
        "max_context": loaded.engine.max_context,
        "load_s": round(load_s, 3),
    }


def peak_rss_gib() -> float:
    """The most memory this process has had at once, in GiB. The system counts in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)
