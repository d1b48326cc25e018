"""The dashboard of pools: the workers that score."""

from __future__ import annotations

from dashboards.grafana.panels import Annotation, Dashboard, Panel, Query
from dashboards.grafana.queries import RUNS
from evo import metrics

RUN = "{{run}}"

_restarts = RUNS.or_zero(RUNS.total(metrics.RESTARTS), metrics.WANTED)


def _workers() -> tuple[Panel, ...]:
    return (
        Panel(
            "Workers",
            "Asked for, alive, and at work. Fewer alive than asked for: the cluster has no room, "
            "or they die.",
            "none",
            (
                Query(RUNS.value(metrics.WANTED), f"wanted {RUN}"),
                Query(RUNS.value(metrics.ALIVE), f"alive {RUN}"),
                Query(RUNS.value(metrics.BUSY), f"busy {RUN}"),
            ),
        ),
        Panel(
            "Queue",
            "Units of work (a candidate on a shard of text) that no worker has yet.",
            "none",
            (Query(RUNS.value(metrics.QUEUED), RUN),),
        ),
        Panel(
            "Lost workers",
            "Workers that died and were replaced. Their units are scored by others.",
            "none",
            (Query(_restarts, RUN),),
        ),
    )


def _work() -> tuple[Panel, ...]:
    seconds = RUNS.rate(metrics.GATHERING), RUNS.rate(metrics.COMPUTING)
    return (
        Panel(
            "Units per second",
            "Of late, as the run measures them.",
            "none",
            (Query(RUNS.value(metrics.UNITS_PER_SECOND), RUN),),
        ),
        Panel(
            "Gathering and computing",
            "Seconds of all workers per second: to gather a candidate's weights, and to score it.",
            "none",
            (Query(seconds[0], f"gathering {RUN}"), Query(seconds[1], f"computing {RUN}")),
        ),
        Panel(
            "Units",
            "Scored since the run began.",
            "short",
            (Query(RUNS.total(metrics.UNITS), RUN),),
        ),
        Panel(
            "Hours",
            "That the run has gone on, over all its starts.",
            "h",
            (Query(RUNS.value(metrics.HOURS), RUN),),
        ),
        Panel(
            "GPU-hours",
            "That its workers were held for.",
            "h",
            (Query(RUNS.value(metrics.GPU_HOURS), RUN),),
        ),
    )


POOL = Dashboard(
    uid="evo-pool",
    title="evo: Pool",
    description="The workers that score candidates.",
    variables=("run",),
    source=metrics.WANTED.series,
    rows={"Workers": _workers(), "Work": _work()},
    annotations=(Annotation("Lost worker", f"({RUNS.growth(metrics.RESTARTS, '1m')}) > 0", "red"),),
)
