"""What Prometheus reads, under the suffixes of vLLM's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from thinkery.serve.call import Call, Usage
from thinkery.serve.door import Door
from thinkery.serve.spread import Spread

FIRST_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80, 160)
WHOLE_S = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 60, 120, 240, 480, 960, 1920)


class Metrics:
    """The numbers of one server."""

    def __init__(self, door: Door) -> None:
        self.registry = CollectorRegistry()
        self.gauge("num_requests_running", "Answers being generated", lambda: door.under_way - door.queued)
        self.gauge("num_requests_waiting", "Answers waiting for their first token", lambda: door.queued)
        self.gauge("replicas_ready", "Engine processes that take requests", lambda: door.open)
        self.gauge("kv_cache_usage_perc", "Share of the memory for keys and values in use, 0 to 1", lambda: door.usage)
        self.queries = self.counter("prefix_cache_queries", "Prompt tokens that were looked up")
        self.hits = self.counter("prefix_cache_hits", "Prompt tokens that were not computed")
        self.prompt = self.counter("prompt_tokens", "Prompt tokens")
        self.generation = self.counter("generation_tokens", "Tokens generated")
        self.reasoning = self.counter("reasoning_tokens", "Those of them in thoughts")
        self.success = self.counter("request_success", "Answers by how they ended", "finished_reason")
        self.unclosed = self.counter("unterminated_thoughts", "Answers that ended inside their thought")
        self.cancelled = self.counter("requests_cancelled", "Requests whose client went away")
        self.failed = self.counter("requests_failed", "Requests that ended with an error")
        self.cost = self.counter("cost_usd", "What was charged, in US dollars")
        self.filter_s = self.histogram("risk_control_seconds", "Until risk control had a verdict", FIRST_S)
        self.first_s = self.histogram("time_to_first_token_seconds", "Until the first token", FIRST_S)
        self.registry.register(Spreads({"inter_token_latency_seconds": ("Between two tokens", door.gaps)}))
        self.whole_s = self.histogram("e2e_request_latency_seconds", "Until the last token", WHOLE_S)
        self.queue_s = self.histogram("request_queue_time_seconds", "Until a prompt began to be read", FIRST_S)

    def counter(self, name: str, about: str, *labels: str) -> Counter:
        """A number that grows."""
        return Counter(f"thinkery:{name}", about, labels, registry=self.registry)

    def gauge(self, name: str, about: str, value) -> None:
        """A number that is asked for."""
        Gauge(f"thinkery:{name}", about, registry=self.registry).set_function(value)

    def histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        """A distribution."""
        return Histogram(f"thinkery:{name}", about, buckets=buckets, registry=self.registry)

    def ended(self, call: Call, usage: Usage, cost: int, *, finish: str, cancelled: bool) -> None:
        """A request has ended."""
        self.queries.inc(usage.prompt)
        self.hits.inc(usage.hit)
        self.prompt.inc(usage.prompt)
        self.generation.inc(usage.completion)
        self.reasoning.inc(usage.reasoning)
        self.unclosed.inc(sum(said.unclosed for said in call.said))
        self.cost.inc(cost / 1e9)
        self.cancelled.inc(cancelled)
        self.failed.inc(finish == "error")
        if call.review_s is not None:
            self.filter_s.observe(call.review_s)
        if cancelled or finish == "error":
            return
        for said in call.said:
            self.success.labels(said.end).inc()
            if said.queued_s is not None:
                self.queue_s.observe(said.queued_s)
        self.whole_s.observe(call.seconds)
        if call.first_s is not None:
            self.first_s.observe(call.first_s)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class Spreads(Collector):
    """Distributions that are counted elsewhere, by name: what each is about, and where it is."""

    def __init__(self, spreads: Mapping[str, tuple[str, Spread]]) -> None:
        self.spreads = spreads

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Each as Prometheus reads it."""
        for name, (about, spread) in self.spreads.items():
            yield HistogramMetricFamily(f"thinkery:{name}", about, list(spread.up_to()), spread.sum)
