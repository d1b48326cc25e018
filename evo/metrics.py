"""Every metric that Prometheus sees of us: the one list of names.

Ray prefixes each with `ray_`, and adds `_total` to a counter's. A histogram becomes three series:
`_bucket`, `_sum` and `_count`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]

FITNESS_BOUNDARIES = (
    *(round(1 + 0.1 * step, 2) for step in range(10)),
    *(round(2 + 0.05 * step, 2) for step in range(80)),
    *(round(6 + 0.25 * step, 2) for step in range(25)),
)
"""Upper ends of the histogram's buckets, nats per token: a perplexity of 2.7 to one of 160,000.

They are narrowest where populations end, from a perplexity of 7 to one of 400.
"""


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: as it is registered with Ray.
        kind: Prometheus'.
        help: a sentence, with the unit.
        tags: labels besides those of its group.
    """

    name: str
    kind: Kind
    help: str
    tags: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """The name by which Prometheus knows it; of a histogram, that of its buckets."""
        suffix = {"gauge": "", "counter": "_total", "histogram": "_bucket"}[self.kind]
        return f"ray_{self.name}{suffix}"


BEST = Metric("evo_search_best_fitness", "gauge", "Lowest fitness so far, nats per token.")
P10 = Metric(
    "evo_search_p10_fitness",
    "gauge",
    "A tenth of the last generation's candidates that were scored in full is better.",
)
MEDIAN = Metric(
    "evo_search_median_fitness",
    "gauge",
    "Median of the last generation's candidates that were scored in full, nats per token.",
)
P90 = Metric(
    "evo_search_p90_fitness",
    "gauge",
    "A tenth of the last generation's candidates that were scored in full is worse.",
)
FITNESS = Metric(
    "evo_search_fitness", "histogram", "Fitness of candidates scored in full, nats per token."
)
GENERATION = Metric("evo_search_generation", "gauge", "Generations that are complete.")
GENERATIONS = Metric("evo_search_generations", "gauge", "Generations of the budget.")
IMPROVED = Metric("evo_search_improved_generation", "gauge", "The last one with a better best.")
SECONDS_LEFT = Metric("evo_search_seconds_left", "gauge", "Estimated seconds to the end.")
EVALUATIONS = Metric("evo_search_evaluations", "counter", "Candidates scored, in full or not.")
SCORED_TOKENS = Metric("evo_search_scored_tokens", "counter", "Targets scored.")
FULL_TOKENS = Metric(
    "evo_search_full_scoring_tokens",
    "counter",
    "Targets that scoring every candidate in full would have taken.",
)
SCREENED = Metric(
    "evo_search_screened", "counter", "Candidates that left at a rung.", tags=("rung",)
)
ACCEPTED = Metric(
    "evo_search_accepted", "counter", "Candidates that became elites.", tags=("operator",)
)
FAILED = Metric("evo_search_failed", "counter", "Candidates whose scoring failed.")
WORKER_SECONDS = Metric("evo_search_worker_seconds", "counter", "Seconds of workers' scoring.")
GPU_SECONDS = Metric("evo_search_gpu_seconds", "counter", "The same, times the GPUs of a worker.")

SEARCH_TAGS = ("run", "space", "bin")
SEARCH = (
    BEST, P10, MEDIAN, P90, FITNESS, GENERATION, GENERATIONS, IMPROVED, SECONDS_LEFT, EVALUATIONS,
    SCORED_TOKENS, FULL_TOKENS, SCREENED, ACCEPTED, FAILED, WORKER_SECONDS, GPU_SECONDS,
)  # fmt: skip

WANTED = Metric("evo_pool_workers_wanted", "gauge", "Workers that were asked for.")
ALIVE = Metric("evo_pool_workers_alive", "gauge", "Workers that have started and are alive.")
BUSY = Metric("evo_pool_workers_busy", "gauge", "Workers that have a unit.")
QUEUED = Metric("evo_pool_units_queued", "gauge", "Units that no worker has yet.")
UNITS_PER_SECOND = Metric("evo_pool_units_per_second", "gauge", "Units scored per second, of late.")
UNITS = Metric("evo_pool_units", "counter", "Units of work (a candidate on a shard) scored.")
RESTARTS = Metric("evo_pool_worker_restarts", "counter", "Workers that died and were replaced.")
GATHERING = Metric(
    "evo_pool_gathering_seconds", "counter", "Seconds of gathering candidates' weights."
)
COMPUTING = Metric("evo_pool_computing_seconds", "counter", "Seconds of computing candidates' NLL.")
HOURS = Metric("evo_pool_hours", "gauge", "Hours that the run has gone on, over all its starts.")
GPU_HOURS = Metric("evo_pool_gpu_hours", "gauge", "GPU-hours that its workers were held for.")

POOL_TAGS = ("run",)
POOL = (
    WANTED, ALIVE, BUSY, QUEUED, UNITS_PER_SECOND, UNITS, RESTARTS, GATHERING, COMPUTING, HOURS,
    GPU_HOURS,
)  # fmt: skip

LOSS = Metric("evo_pretrain_loss", "gauge", "Training loss of the last logged step, nats.")
VALIDATION = Metric(
    "evo_pretrain_validation_perplexity", "gauge", "Perplexity on the validation text."
)
STEP = Metric("evo_pretrain_step", "gauge", "The last logged step.")
TOKENS = Metric("evo_pretrain_tokens", "gauge", "Tokens trained on.")
FLOPS = Metric("evo_pretrain_flops", "gauge", "FLOPs so far, the teacher's included.")
TOKENS_PER_SECOND = Metric("evo_pretrain_tokens_per_second", "gauge", "Tokens per second.")
UTILISATION = Metric(
    "evo_pretrain_utilisation", "gauge", "Share of the measured matrix product's FLOP rate."
)
SKIPPED = Metric("evo_pretrain_skipped", "gauge", "Steps without an update: it was not finite.")
DATA_SECONDS = Metric("evo_pretrain_data_seconds", "counter", "Seconds waiting for data.")

PRETRAIN_TAGS = ("run",)
PRETRAIN = (
    LOSS, VALIDATION, STEP, TOKENS, FLOPS, TOKENS_PER_SECOND, UTILISATION, SKIPPED, DATA_SECONDS,
)  # fmt: skip
