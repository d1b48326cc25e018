"""The one list of metric names, and a search's own values of them, kept alive for Prometheus.

Ray prefixes every name with `ray_`, adds `_total` to counters, and forgets a gauge about half a
minute after its last `set`: a heartbeat sets them again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

from ray.util.metrics import Counter, Gauge

from evo.storage.names import ascii_name

TAGS = ("run", "space", "bin")

BEST_FITNESS = "evo_search_best_fitness"
MEDIAN_FITNESS = "evo_search_median_fitness"
GENERATION = "evo_search_generation"
UNITS_PER_SECOND = "evo_search_units_per_second"
EVALUATIONS = "evo_search_evaluations"
SCORED_TOKENS = "evo_search_scored_tokens"

GAUGES = {
    BEST_FITNESS: "Lowest fitness so far: mean NLL, nats per token.",
    MEDIAN_FITNESS: "Median of a generation's candidates scored in full: mean NLL, nats per token.",
    GENERATION: "Generations that are complete.",
    UNITS_PER_SECOND: "Units of work (one candidate on one shard) scored per second.",
}
COUNTERS = {
    EVALUATIONS: "Candidates scored, failed ones included.",
    SCORED_TOKENS: "Targets scored.",
}

HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True)
class SearchStatus:
    """What the gauges show; None where there is no value yet.

    Attributes:
        best_fitness: nats per token.
        median_fitness: of the last generation, of those scored in full, nats per token.
        generation: generations that are complete.
        units_per_second: units of work scored per second.
    """

    best_fitness: float | None = None
    median_fitness: float | None = None
    generation: float | None = None
    units_per_second: float | None = None


class SearchMetrics:
    """The metrics of one search. Ray must have been initialised; stop it before Ray is shut down.

    Example:
        ```python
        with SearchMetrics(run="run", space="fine-uniform", bin="25%") as metrics:
            metrics.show(SearchStatus(best_fitness=3.2, generation=1))
            metrics.count(evaluations=50, scored_tokens=409_600)
        ```
    """

    def __init__(self, *, run: str, space: str, bin: str) -> None:
        """Start the heartbeat.

        Run and bin are named as they were given, in ASCII, as Ray takes no other tags.
        """
        tags = {"run": ascii_name(run), "space": space, "bin": ascii_name(bin)}
        self._gauges = {
            field.name: Gauge(f"evo_search_{field.name}", GAUGES[f"evo_search_{field.name}"], TAGS)
            for field in fields(SearchStatus)
        }
        self._counters = {name: Counter(name, text, TAGS) for name, text in COUNTERS.items()}
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags(tags)
        self._status = SearchStatus()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"metrics {run}", daemon=True)
        self._thread.start()

    def show(self, status: SearchStatus) -> None:
        """Set the gauges, now and at every heartbeat until the next call."""
        self._status = status
        self._set_gauges()

    def count(self, *, evaluations: int = 0, scored_tokens: int = 0) -> None:
        """Add to the counters."""
        for name, amount in ((EVALUATIONS, evaluations), (SCORED_TOKENS, scored_tokens)):
            if amount:
                self._counters[name].inc(amount)

    def stop(self) -> None:
        """End the heartbeat; the gauges then disappear within half a minute."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> SearchMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            self._set_gauges()

    def _set_gauges(self) -> None:
        status = self._status
        for name, gauge in self._gauges.items():
            value = getattr(status, name)
            if value is not None:
                gauge.set(value)
