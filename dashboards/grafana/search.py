"""The dashboard of searches: how fit the population is, and what it costs."""

from __future__ import annotations

from dashboards.grafana.panels import Annotation, Dashboard, Panel, Query
from dashboards.grafana.queries import SEARCHES, series
from evo import metrics
from evo.metrics import SEARCH_TAGS

NAME = "{{run}} {{space}}@{{bin}}"
"""A search's name in a legend."""

_best = series(metrics.BEST, SEARCH_TAGS)
_tokens = SEARCHES.total(metrics.SCORED_TOKENS)
_full_tokens = SEARCHES.total(metrics.FULL_TOKENS)


def _progress() -> tuple[Panel, ...]:
    generations = f"{SEARCHES.value(metrics.GENERATION)} / {SEARCHES.value(metrics.GENERATIONS)}"
    return (
        Panel(
            "Best perplexity",
            "Of the best candidate so far, before any training.",
            "none",
            (Query(f"exp({SEARCHES.value(metrics.BEST)})", NAME),),
            kind="numbers",
            width=6,
        ),
        Panel(
            "Generations",
            "Share of the budget's generations that are complete.",
            "percentunit",
            (Query(generations, NAME),),
            kind="numbers",
            width=6,
        ),
        Panel(
            "Time left",
            "Estimated, at the pace of late.",
            "s",
            (Query(SEARCHES.value(metrics.SECONDS_LEFT), NAME),),
            kind="numbers",
            width=6,
        ),
        Panel(
            "Candidates scored",
            "In full or not.",
            "short",
            (Query(SEARCHES.total(metrics.EVALUATIONS), NAME),),
            kind="numbers",
            width=6,
        ),
    )


def _fitness() -> tuple[Panel, ...]:
    generation = SEARCHES.value(metrics.GENERATION)
    return (
        Panel(
            "Best fitness",
            "Nats per token; lower is better. A vertical mark is a new best.",
            "none",
            (Query(SEARCHES.value(metrics.BEST), NAME),),
        ),
        Panel(
            "The last generation",
            "Of its candidates that were scored in full: the fitness that a tenth, half and nine "
            "tenths of them reach. Lines that meet mean a population without variety.",
            "none",
            (
                Query(SEARCHES.value(metrics.P10), f"p10 {NAME}"),
                Query(SEARCHES.value(metrics.MEDIAN), f"median {NAME}"),
                Query(SEARCHES.value(metrics.P90), f"p90 {NAME}"),
            ),
        ),
        Panel(
            "Population",
            "How many candidates had which fitness, nats per token; all chosen searches together.",
            "none",
            (Query(SEARCHES.histogram_rate(metrics.FITNESS), "{{le}}"),),
            kind="heatmap",
        ),
        Panel(
            "Generations since a better best",
            "A search that has stopped to improve may end, by `--patience`.",
            "none",
            (Query(f"{generation} - 1 - {SEARCHES.value(metrics.IMPROVED)}", NAME),),
        ),
        Panel(
            "Accepted candidates",
            "Those that became elites, by the operator that made them.",
            "short",
            (Query(SEARCHES.total(metrics.ACCEPTED, "operator"), "{{operator}} " + NAME),),
        ),
        Panel(
            "Failed candidates",
            "Their scoring ended in an error, or in a fitness that is not finite.",
            "short",
            (Query(SEARCHES.or_zero(SEARCHES.total(metrics.FAILED), metrics.GENERATION), NAME),),
        ),
    )


def _cost() -> tuple[Panel, ...]:
    return (
        Panel(
            "Scored tokens per second",
            "Targets.",
            "short",
            (Query(SEARCHES.rate(metrics.SCORED_TOKENS), NAME),),
        ),
        Panel(
            "Scored tokens",
            "Targets scored, and those that scoring every candidate in full would have taken.",
            "short",
            (
                Query(_tokens, f"scored {NAME}"),
                Query(_full_tokens, f"in full {NAME}"),
            ),
        ),
        Panel(
            "Saved by rungs",
            "Share of the full scoring's targets that were not needed; too low while the first "
            "generations go on, whose full scoring is counted at their ends.",
            "percentunit",
            (Query(f"clamp_min(1 - {_tokens} / {_full_tokens}, 0)", NAME),),
        ),
        Panel(
            "Screened out",
            "Candidates that left at a rung, by rung.",
            "short",
            (
                Query(
                    SEARCHES.or_zero(SEARCHES.total(metrics.SCREENED, "rung"), metrics.GENERATION),
                    "rung {{rung}} " + NAME,
                ),
            ),
        ),
        Panel(
            "Worker-hours",
            "Hours that workers have scored.",
            "h",
            (Query(f"{SEARCHES.total(metrics.WORKER_SECONDS)} / 3600", NAME),),
        ),
        Panel(
            "GPU-hours",
            "The same, times the GPUs of a worker; 0 without GPUs.",
            "h",
            (
                Query(
                    "("
                    + SEARCHES.or_zero(SEARCHES.total(metrics.GPU_SECONDS), metrics.GENERATION)
                    + ") / 3600",
                    NAME,
                ),
            ),
        ),
    )


SEARCH = Dashboard(
    uid="evo-search",
    title="evo: Search",
    description="Searches for sub-networks: the population's fitness, and what it costs.",
    variables=SEARCH_TAGS,
    source=metrics.BEST.series,
    rows={"Where they are": _progress(), "Fitness": _fitness(), "Cost": _cost()},
    annotations=(Annotation("New best", f"changes({_best}[1m]) > 0", "green"),),
)
