"""The agents bench: the shared prefix is computed once, and the counts say so."""

from nearfield.bench.agents import AgentsParams, run_agents
from nearfield.bench.workload import Subject


def test_shared_prefix_is_computed_once(subject: Subject) -> None:
    params = AgentsParams(requests=5, shared=64, unique=20, output=6)
    result = run_agents(subject, params, lambda _: None)
    assert result["kind"] == "agents"
    assert result["cached_tokens"] == 4 * 64
    assert result["computed_prompt_tokens"] == 64 + 5 * 20
    assert result["max_batch"] == 5
    assert 0 < result["ttft_s"]["p50"] <= result["ttft_s"]["max"] <= result["wall_s"]
    assert result["tokens_per_s"] > 0


def test_nothing_shared_is_nothing_cached(subject: Subject) -> None:
    params = AgentsParams(requests=3, shared=1, unique=40, output=4)
    assert run_agents(subject, params, lambda _: None)["cached_tokens"] == 0
