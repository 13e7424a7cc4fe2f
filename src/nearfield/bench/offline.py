"""Speed without a server: a cold prompt, then decoding at several batch sizes, beside the machine's limit.

Engine and limit take turns (A B A B) and medians are compared, since a shared machine's memory
bandwidth can change by half within a minute.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from nearfield.bench.limits import Limit, limit_of
from nearfield.bench.workload import Prompts, Report, Subject, header, peak_rss_gib, requests
from nearfield.core.request import Request
from nearfield.engine.engine import Engine

ROUNDS = 4
"""Turns of engine and limit that a median is made of."""

PASSES = 8
"""Passes of the limit in a turn of decoding, of which the median counts."""


@dataclass(frozen=True)
class OfflineParams:
    """Tokens of a prompt, tokens to decode after it, and the batch sizes to decode at."""

    prompt: int = 512
    output: int = 128
    batches: tuple[int, ...] = (1, 8, 16)

    @property
    def context(self) -> int:
        """Tokens that a request may grow to: its own, and those it makes while others' prompts are computed.

        A step is taken to bring half of its 512 tokens to prompts.
        """
        return self.prompt + self.output + ROUNDS + max(self.batches) * (self.prompt // 256 + 2)


def run_offline(subject: Subject, params: OfflineParams, report: Report) -> dict[str, Any]:
    """Measure, and return the result as the JSON document that `nearfield bench offline --json` prints."""
    report(f"loading in {subject.stored}")
    loaded, load_s = subject.load(max(params.batches), params.context)
    limit = limit_of(loaded)
    prompts = Prompts(loaded.spec.vocab_size)
    report(f"prompt of {params.prompt} tokens")
    prefill = _prefill(loaded.engine, limit, prompts, params.prompt)
    decode = []
    for batch in params.batches:
        report(f"batch of {batch}: {params.output} tokens each after {params.prompt}")
        cold = [prompts.ids(params.prompt) for _ in range(batch)]
        decode.append(_decode(loaded.engine, limit, cold, params))
    return {**header("offline", loaded, subject, load_s), "peak_rss_gib": peak_rss_gib(),
            "prefill": prefill, "decode": decode}


def _prefill(engine: Engine, limit: Limit, prompts: Prompts, length: int) -> dict[str, Any]:
    """Time to the first token of a prompt that nothing is cached of."""
    first_token_seconds(engine, prompts.ids(length))  # the first prompt pays for memory that the next ones find
    times, limits = [], []
    for _ in range(ROUNDS):
        times.append(first_token_seconds(engine, prompts.ids(length)))
        limits.append(limit.seconds(length, 1))
    ttft, best = median(times), median(limits)
    return {"tokens": length, "tokens_per_s": round(length / ttft, 1), "ttft_s": round(ttft, 4),
            "limit_tokens_per_s": round(length / best, 1), "share_of_limit": round(best / ttft, 3)}


def first_token_seconds(engine: Engine, prompt: tuple[int, ...]) -> float:
    start = time.perf_counter()
    for request in requests([prompt], max_tokens=1):
        engine.add(request)
    while engine.has_work:
        engine.step()
    return time.perf_counter() - start


def _decode(engine: Engine, limit: Limit, prompts: Sequence[tuple[int, ...]],
            params: OfflineParams) -> dict[str, Any]:
    """Tokens a second of a full batch, from the moment that its last prompt is computed."""
    batch = requests(prompts, max_tokens=None)
    start_all(engine, batch)
    steps = max(1, params.output // ROUNDS)
    times, limits = [], []
    for _ in range(ROUNDS):
        times.append(step_seconds(engine, len(batch), steps))
        limits.append(median(limit.seconds(len(batch), len(batch)) for _ in range(PASSES)))
    for request in batch:
        engine.cancel(request.request_id)
    measured, best = median(times), median(limits)
    return {"batch": len(batch), "context": params.prompt, "tokens_per_s": round(len(batch) / measured, 2),
            "limit_tokens_per_s": round(len(batch) / best, 2), "share_of_limit": round(best / measured, 3)}


def start_all(engine: Engine, batch: Sequence[Request]) -> None:
    """Add the requests and step until each has its first token."""
    for request in batch:
        engine.add(request)
    waiting = {request.request_id for request in batch}
    while waiting:
        waiting -= {output.request_id for output in engine.step() if output.token_ids}


def step_seconds(engine: Engine, batch: int, steps: int) -> float:
    """Mean seconds of a step in which every one of `batch` requests gets a token."""
    tokens = 0
    start = time.perf_counter()
    for _ in range(steps):
        tokens += sum(len(output.token_ids) for output in engine.step())
    return (time.perf_counter() - start) * batch / tokens
