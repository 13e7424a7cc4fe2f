"""The offline bench: the form of its result, and that its figures are of what it says."""

import pytest

from nearfield.bench import offline
from nearfield.bench.limits import limit_of
from nearfield.bench.offline import OfflineParams, run_offline
from nearfield.bench.workload import Prompts, Subject, requests
from nearfield.core.errors import ConfigError


def test_result_has_the_promised_form(subject: Subject) -> None:
    said: list[str] = []
    result = run_offline(subject, OfflineParams(prompt=40, output=8, batches=(1, 3)), said.append)
    assert said
    assert result["kind"] == "offline"
    assert (result["weights"], result["kv"]) == ("fp32", "fp32")
    assert result["load_s"] >= 0 and result["peak_rss_gib"] > 0.01 and result["threads"] >= 1
    prefill = result["prefill"]
    assert prefill["tokens"] == 40 and prefill["ttft_s"] > 0
    assert [(row["batch"], row["context"]) for row in result["decode"]] == [(1, 40), (3, 40)]
    for row in (prefill, *result["decode"]):
        assert row["tokens_per_s"] > 0 and 0 < row["share_of_limit"] < 1.5
        share = row["tokens_per_s"] / row["limit_tokens_per_s"]
        assert row["share_of_limit"] == pytest.approx(share, abs=0.002)


def test_decoding_is_timed_with_a_full_batch_only(subject: Subject) -> None:
    params = OfflineParams(prompt=30, output=8, batches=(4,))
    loaded, _ = subject.load(4, params.context)
    prompts = Prompts(loaded.spec.vocab_size)
    batch = requests([prompts.ids(params.prompt) for _ in range(4)], None)
    offline.start_all(loaded.engine, batch)
    assert (loaded.engine.stats().running, loaded.engine.stats().waiting) == (4, 0)
    before = loaded.engine.stats().generated_tokens
    assert offline.step_seconds(loaded.engine, 4, 5) > 0
    assert loaded.engine.stats().generated_tokens - before == 20


def test_no_prompt_is_served_from_the_cache(subject: Subject) -> None:
    params = OfflineParams(prompt=40, output=8, batches=(1, 2))
    loaded, _ = subject.load(2, params.context)
    prompts = Prompts(loaded.spec.vocab_size)
    offline._prefill(loaded.engine, limit_of(loaded), prompts, 40)
    offline._decode(loaded.engine, limit_of(loaded), [prompts.ids(40), prompts.ids(40)], params)
    stats = loaded.engine.stats()
    assert stats.cached_tokens == 0 and stats.preemptions == 0 and stats.running == 0
    assert stats.prompt_tokens == 40 * (1 + offline.ROUNDS + 2)
    loaded.engine.check()


def test_more_tokens_than_positions(subject: Subject) -> None:
    with pytest.raises(ConfigError, match="512 positions"):
        run_offline(subject, OfflineParams(prompt=500, output=100, batches=(1,)), lambda _: None)
