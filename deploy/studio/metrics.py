"""What the studio counts and times, for Prometheus. docs/studio.md says what each means."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """One process's metrics, in a registry of their own: two studios in one test do not meet."""

    def __init__(self, fallbacks: Callable[[], float] = lambda: 0.0) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "studio_requests", "Answers, by task and HTTP status.", ["task", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "studio_request_seconds",
            "From a request's first byte to its answer.",
            ["task"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.stage = Histogram(
            "studio_stage_seconds",
            "Of that: upload and decoding, waiting, the engine, encoding.",
            ["stage"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.waiting = Gauge("studio_queue_length", "Requests that wait for the engine.", registry=self.registry)
        self.inside = Gauge("studio_requests_inside", "Requests from upload to answer.", registry=self.registry)
        self.version = Gauge(
            "studio_engine_version",
            "The registry's version that answers, by alias; 0: none.",
            ["alias"],
            registry=self.registry,
        )
        self.tainted = Gauge(
            "studio_champion_tainted", "1 while the champion was trained on what is taken down.", registry=self.registry
        )
        self.swaps = Counter(
            "studio_swaps",
            "Engines opened for an alias, by whether they did.",
            ["alias", "outcome"],
            registry=self.registry,
        )
        self.violations = Counter(
            "product_pixels_violated",
            "Files whose kept pixels were not the input's. Has to stay 0.",
            registry=self.registry,
        )
        self.rejected = Counter("studio_rejected", "Requests refused, by cause.", ["cause"], registry=self.registry)
        self.hung_up = Counter(
            "studio_hung_up", "Requests whose client went away before the answer.", registry=self.registry
        )
        self.engine_errors = Counter("studio_engine_errors", "Calls of the engine that raised.", registry=self.registry)
        self.shelf = Gauge("studio_shelf_bytes", "Finished pictures kept in memory.", registry=self.registry)
        for alias in ("champion", "challenger"):
            self.version.labels(alias).set(0)
        self.registry.register(_Fallbacks(fallbacks))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class _Fallbacks(Collector):
    """`engine_fallback_total`, which `deploy.engines.open` counts."""

    def __init__(self, count: Callable[[], float]) -> None:
        self._count = count

    def collect(self) -> list[CounterMetricFamily]:
        family = CounterMetricFamily("engine_fallback", "Engines that run on ONNX Runtime instead of TensorRT.")
        family.add_metric([], self._count())
        return [family]
