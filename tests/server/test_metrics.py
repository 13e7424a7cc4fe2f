"""What a scraper reads."""

from prometheus_client.parser import text_string_to_metric_families

from tests.server.serving import Serving, idle


def read(server: Serving) -> dict[str, float]:
    """The samples of /metrics, by name; those of several labels are added up."""
    assert idle(server.loop)
    reply = server.http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(reply.text):
        for sample in family.samples:
            assert sample.labels["model_name"] == server.name
            if "le" not in sample.labels:
                samples[sample.name] = samples.get(sample.name, 0) + sample.value
    return samples


def test_figures_follow_requests(server: Serving) -> None:
    before = read(server)
    assert {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"} <= before.keys()
    reply = server.complete(prompt="One, two, three", max_tokens=5, ignore_eos=True, n=2)
    usage = reply.json()["usage"]
    after = read(server)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("nearfield_generated_tokens_total") == usage["completion_tokens"] == 10
    assert grown("nearfield_prompt_tokens_total") == 2 * usage["prompt_tokens"]
    assert grown("nearfield_requests_total") == grown("nearfield_time_to_first_token_seconds_count") == 2
    assert grown("nearfield_inter_token_seconds_count") == 8
    assert grown("nearfield_request_seconds_count") == 2
    assert grown("nearfield_steps_total") > 0
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert 0 <= after["vllm:kv_cache_usage_perc"] <= 1
    assert after["vllm:gpu_cache_usage_perc"] == after["vllm:kv_cache_usage_perc"]
    assert after["vllm:prefix_cache_queries_total"] == after["nearfield_prompt_tokens_total"]
    assert after["vllm:prefix_cache_hits_total"] == after["nearfield_cached_tokens_total"]


def test_loads_are_what_the_metrics_say(server: Serving) -> None:
    server.complete(prompt="One, two, three", max_tokens=2)
    figures = read(server)
    body = server.http.get("/v1/loads?include=core,queues").json()
    assert body["dp_rank_count"] == 1 and len(body["loads"]) == 1
    load = body["loads"][0]
    assert load["num_running_reqs"] == load["num_waiting_reqs"] == load["num_total_reqs"] == 0
    assert load["token_usage"] == round(figures["vllm:kv_cache_usage_perc"], 4)
    hits, queries = figures["vllm:prefix_cache_hits_total"], figures["vllm:prefix_cache_queries_total"]
    assert load["cache_hit_rate"] == round(hits / queries, 4)
