"""Many agents at once: requests that share a long prefix, such as a system prompt with its tools.

What counts is how often the shared part is computed (once is right) and how long the last one waits.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from nearfield.bench.workload import Prompts, Report, Subject, header, peak_rss_gib, requests
from nearfield.core.request import Output, Request
from nearfield.engine.engine import Engine


@dataclass(frozen=True)
class AgentsParams:
    """How many requests; tokens that all share, that each has alone, and that each is to make."""

    requests: int = 16
    shared: int = 1024
    unique: int = 64
    output: int = 64


def run_agents(subject: Subject, params: AgentsParams, report: Report) -> dict[str, Any]:
    """Measure, and return the result as the JSON document that `nearfield bench agents --json` prints."""
    report(f"loading in {subject.stored}")
    loaded, load_s = subject.load(params.requests, params.shared + params.unique + params.output)
    prompts = Prompts(loaded.spec.vocab_size)
    _serve(loaded.engine, requests([prompts.ids(params.unique)], max_tokens=2))  # warms up; shares nothing
    report(f"{params.requests} requests that share {params.shared} tokens")
    shared = prompts.ids(params.shared)
    batch = requests([shared + prompts.ids(params.unique) for _ in range(params.requests)], params.output)
    wall, first, last = _serve(loaded.engine, batch)
    cached = sum(output.cached_tokens for output in last)
    made = sum(output.completion_tokens for output in last)
    return {**header("agents", loaded, subject, load_s), "peak_rss_gib": peak_rss_gib(),
            "requests": params.requests, "shared": params.shared, "unique": params.unique,
            "output": params.output, "wall_s": round(wall, 3), "cached_tokens": cached,
            "computed_prompt_tokens": sum(output.prompt_tokens for output in last) - cached,
            "tokens_per_s": round(made / wall, 1),
            "ttft_s": {"p50": round(median(first), 4), "max": round(max(first), 4)},
            "max_batch": loaded.engine.stats().max_batch}


def _serve(engine: Engine, batch: list[Request]) -> tuple[float, list[float], list[Output]]:
    """Run `batch` to its end: seconds in all, seconds to each first token, each last output."""
    start = time.perf_counter()
    for request in batch:
        engine.add(request)
    first: dict[str, float] = {}
    last = []
    while engine.has_work:
        for output in engine.step():
            if output.token_ids:
                first.setdefault(output.request_id, time.perf_counter() - start)
            if output.finish_reason is not None:
                last.append(output)
    return time.perf_counter() - start, list(first.values()), last
