"""The figures of /metrics: the engine's own counters, and what clients felt, measured as outputs arrive.

A registry of our own, so that two servers in a process do not share figures. `vllm:` names are those
that routers read to balance load.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nearfield.core.request import EngineStats, Output

LABEL = "model_name"
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
BETWEEN_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
WHOLE_BUCKETS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class EngineCollector(Collector):
    """Reads the engine's figures when they are scraped."""

    def __init__(self, model: str, stats: Callable[[], EngineStats]) -> None:
        self._model, self._stats = model, stats

    def collect(self) -> Iterator[Metric]:
        now = self._stats()
        used = 1 - (now.pages_free + now.pages_cached) / max(1, now.pages_total)
        for name, text, value in (
            ("vllm:num_requests_running", "Requests in the running batch.", now.running),
            ("vllm:num_requests_waiting", "Requests in the queue.", now.waiting),
            ("vllm:kv_cache_usage_perc", "Share of the KV cache in use by requests, 0 to 1.", max(0.0, used)),
            ("vllm:gpu_cache_usage_perc", "The same, by the name that older routers read.", max(0.0, used)),
            ("nearfield_requests_running", "Requests in the running batch.", now.running),
            ("nearfield_requests_waiting", "Requests in the queue.", now.waiting),
            ("nearfield_pages_total", "Pages of the KV cache.", now.pages_total),
            ("nearfield_pages_free", "Pages that hold nothing.", now.pages_free),
            ("nearfield_pages_cached", "Pages that hold shareable prefixes.", now.pages_cached),
            ("nearfield_batch_size_max", "Most rows that one step has had.", now.max_batch),
        ):
            yield self._fill(GaugeMetricFamily(name, text, labels=[LABEL]), value)
        for name, text, value in (
            ("vllm:prefix_cache_queries", "Prompt tokens taken in.", now.prompt_tokens),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", now.cached_tokens),
            ("nearfield_steps", "Engine steps.", now.steps),
            ("nearfield_preemptions", "Requests set back for want of pages.", now.preemptions),
            ("nearfield_prompt_tokens", "Prompt tokens taken in.", now.prompt_tokens),
            ("nearfield_cached_tokens", "Prompt tokens found in the cache.", now.cached_tokens),
            ("nearfield_generated_tokens", "Tokens generated.", now.generated_tokens),
        ):
            yield self._fill(CounterMetricFamily(name, text, labels=[LABEL]), value)

    def _fill(self, family: GaugeMetricFamily | CounterMetricFamily, value: float) -> Metric:
        family.add_metric([self._model], value)
        return family


class Metrics:
    """All figures of one served model."""

    def __init__(self, model: str, stats: Callable[[], EngineStats]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(model, stats))

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(name, text, [LABEL], registry=self.registry, buckets=buckets)
            return family.labels(model)

        self.first_token = histogram("nearfield_time_to_first_token_seconds",
                                     "From a request's arrival to its first token.", FIRST_TOKEN_BUCKETS)
        self.between = histogram("nearfield_inter_token_seconds",
                                 "From one output of a request to its next.", BETWEEN_BUCKETS)
        self.whole = histogram("nearfield_request_seconds",
                               "From a request's arrival to its last token.", WHOLE_BUCKETS)
        self._model = model
        self._requests = Counter("nearfield_requests", "Requests ended, by reason.",
                                 [LABEL, "finish_reason"], registry=self.registry)

    def ended(self, reason: str) -> None:
        """Count a request that ended: stop, length, abort (its client left) or error."""
        self._requests.labels(self._model, reason).inc()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


class Stopwatch:
    """Times one request. `arrived` and `at` are seconds of time.perf_counter()."""

    def __init__(self, metrics: Metrics, arrived: float) -> None:
        self._metrics, self._arrived = metrics, arrived
        self._last: float | None = None

    def saw(self, output: Output, at: float) -> None:
        """Take note of an output that the engine handed over at `at`."""
        if output.token_ids:
            if self._last is None:
                self._metrics.first_token.observe(at - self._arrived)
            else:
                self._metrics.between.observe(at - self._last)
            self._last = at
        if output.finish_reason is not None:
            self._metrics.whole.observe(at - self._arrived)
            self._metrics.ended(output.finish_reason.value)
