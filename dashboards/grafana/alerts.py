"""Alert rules for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.grafana.queries import Queries
from evo import metrics
from evo.metrics import SEARCH_TAGS

SEARCHES = Queries(SEARCH_TAGS)
RUNS = Queries(("run",))

STALLED, PRETRAIN_STALLED = "10m", "30m"
PLATEAU = 30
FAILING = 0.1
LOST = 3


@dataclass(frozen=True)
class Alert:
    """An alert.

    Attributes:
        name: in Prometheus' way of writing.
        measured: a query that has a value while all is well, too.
        condition: what of that value raises the alert.
        lasting: how long the condition holds before it does.
        severity: `info`, `warning` or `critical`.
        summary: what has happened, with labels in Prometheus' templates.
        description: what to do.
    """

    name: str
    measured: str
    condition: str
    lasting: str
    severity: str
    summary: str
    description: str

    @property
    def expression(self) -> str:
        """The query that has a value where the alert is raised."""
        return f"({self.measured}) {self.condition}"


def _units() -> str:
    """Units of late of runs that want workers, those included that have never scored one."""
    wanted = RUNS.value(metrics.WANTED)
    scored = f"sum by (run) (increase({metrics.UNITS.series}[{STALLED}]))"
    return f"({scored} or 0 * {wanted}) and on (run) {wanted} > 0"


_search = "{{ $labels.space }}@{{ $labels.bin }} of run {{ $labels.run }}"
_since = f"{SEARCHES.value(metrics.GENERATION)} - 1 - {SEARCHES.value(metrics.IMPROVED)}"
_failed = SEARCHES.or_zero(SEARCHES.total(metrics.FAILED, window="1h"), metrics.GENERATION)
_wanted, _alive = RUNS.value(metrics.WANTED), RUNS.value(metrics.ALIVE)

ALERTS = (
    Alert(
        "EvoSearchStalled",
        _units(),
        "== 0",
        STALLED,
        "critical",
        f"Run {{{{ $labels.run }}}} has scored nothing for {STALLED}",
        "Its workers do not start, hang or wait for a node: see the dashboard evo: Pool, and the "
        "job's log.",
    ),
    Alert(
        "EvoSearchWithoutWorkers",
        f"{_wanted} - {_alive}",
        "> 0",
        "15m",
        "warning",
        "Run {{ $labels.run }} lacks {{ $value }} workers",
        "The cluster has no room for them, or they die while they start. The search goes on with "
        "those that are alive.",
    ),
    Alert(
        "EvoSearchPlateaued",
        _since,
        f">= {PLATEAU}",
        "0m",
        "info",
        f"{_search}: no better candidate for {{{{ $value }}}} generations",
        "It may have found what there is: `--patience` ends such a search by itself.",
    ),
    Alert(
        "EvoSearchFailing",
        f"({_failed}) / {SEARCHES.total(metrics.EVALUATIONS, window='1h')}",
        f"> {FAILING}",
        "5m",
        "warning",
        f"{_search}: {{{{ $value | humanizePercentage }}}} of its candidates have failed",
        "Their rows in history.parquet say why; out of memory is the usual reason.",
    ),
    Alert(
        "EvoWorkersLost",
        RUNS.or_zero(RUNS.growth(metrics.RESTARTS, "30m"), metrics.WANTED),
        f">= {LOST}",
        "0m",
        "warning",
        "Run {{ $labels.run }} has lost {{ $value }} workers in 30m",
        "They are replaced and their units scored by others. Ray's dashboard says why they died.",
    ),
    Alert(
        "EvoPretrainNotFinite",
        RUNS.or_zero(RUNS.change(metrics.SKIPPED, "15m"), metrics.STEP),
        "> 0",
        "0m",
        "critical",
        "Run {{ $labels.run }} has left out {{ $value }} updates that were not finite",
        "A lower learning rate, or an earlier checkpoint (`--resume-from`), if it goes on.",
    ),
    Alert(
        "EvoPretrainStalled",
        RUNS.change(metrics.STEP, PRETRAIN_STALLED),
        "== 0",
        "1m",
        "critical",
        f"Run {{{{ $labels.run }}}} has taken no step for {PRETRAIN_STALLED}",
        "A worker hangs, or waits for data or for a node: see evo: Pretraining, and the job's log.",
    ),
)


def rules(alerts: Sequence[Alert] = ALERTS) -> dict[str, Any]:
    """The file that Prometheus reads."""
    return {
        "groups": [
            {
                "name": "evo",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expression,
                        "for": alert.lasting,
                        "labels": {"severity": alert.severity},
                        "annotations": {
                            "summary": alert.summary,
                            "description": alert.description,
                        },
                    }
                    for alert in alerts
                ],
            }
        ]
    }
