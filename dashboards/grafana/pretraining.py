"""The dashboard of pretraining runs."""

from __future__ import annotations

from dashboards.grafana.panels import Dashboard, Panel, Query
from dashboards.grafana.queries import RUNS
from evo import metrics

RUN = "{{run}}"


def _learning() -> tuple[Panel, ...]:
    return (
        Panel(
            "Training loss",
            "Nats per token of the last logged step; with distillation, of both losses together.",
            "none",
            (Query(RUNS.value(metrics.LOSS), RUN),),
            width=12,
        ),
        Panel(
            "Validation perplexity",
            "On the validation text.",
            "none",
            (Query(RUNS.value(metrics.VALIDATION), RUN),),
            width=12,
            logarithmic=True,
        ),
        Panel(
            "Tokens",
            "Trained on.",
            "short",
            (Query(RUNS.value(metrics.TOKENS), RUN),),
        ),
        Panel(
            "FLOPs",
            "Spent so far, the teacher's included.",
            "short",
            (Query(RUNS.value(metrics.FLOPS), RUN),),
        ),
        Panel(
            "Steps",
            "The last logged step, and steps whose update was left out as it was not finite.",
            "short",
            (
                Query(RUNS.value(metrics.STEP), f"step {RUN}"),
                Query(RUNS.or_zero(RUNS.value(metrics.SKIPPED), metrics.STEP), f"left out {RUN}"),
            ),
        ),
    )


def _speed() -> tuple[Panel, ...]:
    return (
        Panel(
            "Tokens per second",
            "All workers together.",
            "short",
            (Query(RUNS.value(metrics.TOKENS_PER_SECOND), RUN),),
        ),
        Panel(
            "Utilisation",
            "Share of the FLOP rate that a matrix product reaches on the same device.",
            "percentunit",
            (Query(RUNS.value(metrics.UTILISATION), RUN),),
        ),
        Panel(
            "Waiting for data",
            "Seconds per second.",
            "percentunit",
            (Query(RUNS.rate(metrics.DATA_SECONDS), RUN),),
        ),
    )


PRETRAINING = Dashboard(
    uid="evo-pretraining",
    title="evo: Pretraining",
    description="Pretraining runs: what they have learned, and how fast.",
    variables=("run",),
    source=metrics.STEP.series,
    rows={"Learning": _learning(), "Speed": _speed()},
)
