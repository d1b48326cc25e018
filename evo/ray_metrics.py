"""Metrics at Ray's endpoint for Prometheus, kept alive.

Ray forgets a gauge about half a minute after its last `set`: a heartbeat sets it again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from evo.metrics import FITNESS_BOUNDARIES, Metric
from evo.storage.names import ascii_name

HEARTBEAT_SECONDS = 5.0


class RayMetrics:
    """The metrics of one search, pool or run. Ray must run; stop it before Ray is shut down.

    Args:
        metrics: which.
        tags: values of the labels that all of them have, in ASCII, as Ray takes no others.

    Example:
        ```python
        with RayMetrics(SEARCH, {"run": "run", "space": "fine-uniform", "bin": "25%"}) as metrics:
            metrics.show({BEST: 3.2, GENERATION: 1})
            metrics.count(EVALUATIONS, 50)
            metrics.observe(FITNESS, [3.2, 3.4])
        ```
    """

    def __init__(self, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        """Start the heartbeat."""
        shared = {name: ascii_name(value) for name, value in tags.items()}
        self._found: dict[Metric, Gauge | Counter | Histogram] = {}
        for metric in metrics:
            names = (*shared, *metric.tags)
            if metric.kind == "histogram":
                boundaries = list(FITNESS_BOUNDARIES)
                made: Gauge | Counter | Histogram = Histogram(
                    metric.name, metric.help, boundaries, names
                )
            else:
                kind = Gauge if metric.kind == "gauge" else Counter
                made = kind(metric.name, metric.help, names)
            made.set_default_tags(shared)
            self._found[metric] = made
        self._values: dict[Metric, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="metrics", daemon=True)
        self._thread.start()

    def show(self, values: Mapping[Metric, float | None]) -> None:
        """Set gauges, now and at every heartbeat until they are set again; None takes it away."""
        kept = {**self._values, **values}
        self._values = {metric: value for metric, value in kept.items() if value is not None}
        self._set()

    def count(self, metric: Metric, amount: float = 1, **tags: str) -> None:
        """Add to a counter."""
        counter = self._found[metric]
        assert isinstance(counter, Counter)
        if amount > 0:
            counter.inc(amount, {name: ascii_name(value) for name, value in tags.items()})

    def observe(self, metric: Metric, values: Iterable[float]) -> None:
        """Add values to a histogram."""
        histogram = self._found[metric]
        assert isinstance(histogram, Histogram)
        for value in values:
            histogram.observe(value)

    def stop(self) -> None:
        """End the heartbeat; the gauges then disappear within half a minute."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> RayMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            self._set()

    def _set(self) -> None:
        for metric, value in self._values.items():
            gauge = self._found[metric]
            assert isinstance(gauge, Gauge)
            gauge.set(value)
