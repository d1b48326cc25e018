"""Prometheus' queries on our metrics.

Each process of Ray, and each start of one, has series of its own (labels `WorkerId` and
`SessionName`). A driver that was killed and went on is two of them: the newest one's gauge counts,
and the sum of both's counters.
"""

from __future__ import annotations

from collections.abc import Sequence

from evo.metrics import SEARCH_TAGS, Metric

RATE = "$__rate_interval"
RANGE = "$__range"
"""Grafana's durations: one that holds a few scrapes, and that of the dashboard's time."""


def series(metric: Metric, tags: Sequence[str] = ()) -> str:
    """The series of a metric.

    Args:
        metric: the metric.
        tags: labels that the dashboard's variables of the same names choose.
    """
    chosen = ",".join(f'{tag}=~"${tag}"' for tag in tags)
    return f"{metric.series}{{{chosen}}}" if chosen else metric.series


class Queries:
    """The queries of a dashboard, or of the alerts.

    Args:
        by: labels of which every combination is a line.
        chosen: labels that the dashboard's variables choose.
    """

    def __init__(self, by: Sequence[str], chosen: Sequence[str] = ()) -> None:
        self._by, self._chosen = tuple(by), chosen

    def value(self, metric: Metric) -> str:
        """A gauge's value."""
        return f"max by ({self._labels()}) ({series(metric, self._chosen)})"

    def total(self, metric: Metric, *more: str, window: str = RANGE) -> str:
        """What a counter has counted in all processes, the first sample of each included.

        Prometheus' own `increase` leaves that sample out, and estimates the rest.

        Args:
            metric: the counter.
            more: labels besides.
            window: processes are counted that lived in it.
        """
        found = f"max_over_time({series(metric, self._chosen)}[{window}])"
        return f"sum by ({self._labels(*more)}) ({found})"

    def rate(self, metric: Metric, *more: str, window: str = RATE) -> str:
        """A counter's growth per second."""
        found = f"rate({series(metric, self._chosen)}[{window}])"
        return f"sum by ({self._labels(*more)}) ({found})"

    def growth(self, metric: Metric, window: str) -> str:
        """A counter's growth in a window, from zero where it did not exist at its beginning."""
        return self._grown(f"sum by ({self._labels()}) ({series(metric, self._chosen)})", window)

    def change(self, metric: Metric, window: str) -> str:
        """A gauge's growth in a window, from zero where it did not exist at its beginning."""
        return self._grown(self.value(metric), window)

    def or_zero(self, query: str, always: Metric) -> str:
        """A query, with zero for each line that it lacks.

        Args:
            query: of a counter that may not have counted yet, and so does not exist.
            always: a gauge of the same group that does.
        """
        return f"{query} or on ({self._labels()}) 0 * {self.value(always)}"

    def histogram_rate(self, metric: Metric) -> str:
        """A histogram's growth per bucket, all lines together, for a heat map."""
        return f"sum by (le) (increase({series(metric, self._chosen)}[{RATE}]))"

    def _grown(self, now: str, window: str) -> str:
        before = now[:-1] + f" offset {window})"
        return f"{now} - ({before} or 0 * {now})"

    def _labels(self, *more: str) -> str:
        return ", ".join((*self._by, *more))


SEARCHES = Queries(SEARCH_TAGS, SEARCH_TAGS)
RUNS = Queries(("run",), ("run",))
