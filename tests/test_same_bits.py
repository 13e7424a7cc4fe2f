"""The promise of a numeric profile: the same bits of logits and tokens, whatever happens around a request.

Each way of running differs in instruction set, threads, requests at once, tokens of a step and prefix cache.
Sequences are sampled, not greedy, so that a wrong bit would show in the tokens too; their prompts share
prefixes. Afterwards every sequence is computed again as one prefill, and every position's logits compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nearfield.core.config import EngineConfig
from nearfield.core.plan import StepPlan
from nearfield.core.request import Request, SamplingParams
from nearfield.engine.batch import whole_inputs
from nearfield.engine.build import Loaded, load_engine
from nearfield.engine.runner import Runner, StepResult
from nearfield.kernels import cpu
from tests.models.test_parity import FAMILIES, make_folder

if reason := cpu.missing():
    pytest.skip(reason, allow_module_level=True)

Digests = dict[tuple[str, int], bytes]
"""Of the logits after so many tokens of a request."""

WEIGHTS: dict[str, dict[str, Any]] = {
    "w8": {"weights": "w8"}, "w4": {"weights": "w4", "group": 32}, "fp32": {"dtype": "fp32"},
    "bf16": {"dtype": "bf16"}}


@dataclass(frozen=True)
class Way:
    """How a batch of requests is run."""

    isa: str
    threads: int = 2
    batch: int = 16
    chunk: int = 4096
    prefix: bool = True

    def load(self, folder: Path | None, options: Mapping[str, Any]) -> Loaded:
        config = EngineConfig(**{"kv_memory": 64 << 20, "isa": self.isa, "threads": self.threads,
                                 "max_seqs": self.batch, "max_step_tokens": self.chunk, "prefix_cache": self.prefix,
                                 **options})
        return load_engine(folder, config, tokenizer=folder is None)


class Recorder(Runner):
    """A runner that remembers a digest of every row of logits."""

    def __init__(self, inner: Runner, seen: Digests) -> None:
        self._inner, self._seen = inner, seen

    def run(self, plan: StepPlan, targets: Mapping[str, Sequence[int]]) -> StepResult:
        result = self._inner.run(plan, targets)
        for row, logits in zip((row for row in plan.rows if row.sample), result.logits, strict=True):
            self._seen[row.request_id, row.end] = digest(logits)
        return result


def digest(logits: Tensor) -> bytes:
    return sha256(logits.contiguous().numpy().tobytes()).digest()[:8]


def generate(loaded: Loaded, prompts: Sequence[tuple[int, ...]], count: int) -> tuple[dict[str, list[int]], Digests]:
    """The answers of `count` tokens and the digests of their logits."""
    seen: Digests = {}
    engine = loaded.engine
    engine._runner = Recorder(engine._runner, seen)
    answers: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, SamplingParams(max_tokens=count, temperature=0.8, top_p=0.95, seed=i,
                                                          ignore_eos=True)))
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id] += output.token_ids
    return answers, seen


def prefill(loaded: Loaded, tokens: Sequence[int], name: str, first: int) -> Digests:
    """Digests of every position from `first` on, computed as one row of all tokens."""
    with torch.inference_mode():
        hidden = loaded.model.hidden(whole_inputs(tokens, loaded.engine._runner._kv, loaded.engine.config.page_size))
        logits = loaded.model.logits(hidden[first - 1:])
    return {(name, first + i): digest(one) for i, one in enumerate(logits)}


def shared_prompts(count: int, length: int, vocab: int) -> list[tuple[int, ...]]:
    """Prompts that share their first half, three by three."""
    drawn = torch.randint(3, vocab, (2 * count, length // 2), generator=torch.Generator().manual_seed(1)).tolist()
    return [tuple(drawn[i // 3]) + tuple(drawn[count + i])[:length // 2 - i % 5] for i in range(count)]


def check(folder: Path | None, options: Mapping[str, Any], prompts: Sequence[tuple[int, ...]], count: int,
          ways: Sequence[Way], prefills: Sequence[Way]) -> int:
    """Every way against the first one; the number of tokens that were compared."""
    want, seen = generate(ways[0].load(folder, options), prompts, count)
    for way in ways[1:]:
        tokens, digests = generate(way.load(folder, options), prompts, count)
        assert tokens == want, way
        assert digests == seen, way
    for way in prefills:
        loaded = way.load(folder, options)
        for i, prompt in enumerate(prompts):
            # The last token was drawn and never run.
            again = prefill(loaded, (*prompt, *want[str(i)][:-1]), str(i), len(prompt))
            assert again == {key: value for key, value in seen.items() if key[0] == str(i)}, (way, i)
    return count * len(prompts)


BEST = (cpu.supported() or ("scalar",))[0]
WAYS = [Way(BEST), Way(BEST, threads=1, batch=3, chunk=16, prefix=False), Way("avx512", threads=4, batch=16, chunk=256),
        Way("avx2", threads=2, batch=1, chunk=256), Way("scalar", batch=16, chunk=16, prefix=False)]
HERE = [way for way in WAYS if way.isa in cpu.supported()]


def instruction_sets(weights: str) -> list[Way]:
    """Dense bf16 is bound to the instruction that multiplies it: its profile's name says so."""
    return [way for way in HERE if weights != "bf16" or way.isa == BEST]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_pocket_model(weights: str) -> None:
    prompts = shared_prompts(7, 60, 2000)
    ways = instruction_sets(weights)
    check(None, WEIGHTS[weights], prompts, 12, ways, [ways[0]])


@pytest.mark.parametrize("weights", ["w8", "w4", "fp32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_models_of_every_family(family: str, weights: str, tmp_path: Path) -> None:
    make_folder(family, tmp_path)
    prompts = shared_prompts(4, 50, 300)
    check(tmp_path, {**WEIGHTS[weights], "dtype": "fp32"}, prompts, 6, HERE, [HERE[0], HERE[-1]])


@pytest.mark.slow
@pytest.mark.parametrize("weights", WEIGHTS)
def test_ten_thousand_tokens(weights: str) -> None:
    """Every combination but the scalar ones, which compute the same tokens as prefills."""
    isas = [isa for isa in cpu.supported() if isa != "scalar" and (weights != "bf16" or isa == BEST)]
    ways = [Way(isa, threads, batch, chunk, prefix)
            for isa in isas for threads, batch, chunk, prefix in
            [(1, 16, 4096, True), (2, 3, 256, False), (4, 16, 16, True), (2, 1, 4096, False)]]
    scalar = [] if weights == "bf16" else [Way("scalar")]
    compared = check(None, WEIGHTS[weights], shared_prompts(40, 64, 2000), 256, ways, [Way(isas[0]), *scalar])
    assert compared >= 10_000
