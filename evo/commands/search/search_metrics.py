"""What Prometheus sees of a search and its pool."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from evo import metrics as names
from evo.model.gate_gradients import GateGradients
from evo.ray_metrics import RayMetrics
from evo.search.search import Search
from evo.search.shard_score import ShardScore
from evo.search.spent import Spent
from workers.pool.pool import Pool
from workers.pool.shared_pool import SharedPool

SHOW_SECONDS = 1.0


class SearchMetrics:
    """The metrics of one search; a context manager.

    Args:
        search: the search.
        run: its run's name.
        gpus: of a worker.
        generations: of the budget.
    """

    def __init__(self, search: Search, run: str, *, gpus: float, generations: int) -> None:
        space = search.strategy.space
        tags = {"run": run, "space": space.name, "bin": space.bin.name}
        self._search, self._gpus, self._full_tokens = search, gpus, 0
        self._metrics = RayMetrics(names.SEARCH, tags)
        self._metrics.show({names.GENERATIONS: generations + 1})

    def scored(self, tokens: int, seconds: float) -> None:
        """Units have come in, of so many targets and seconds of workers."""
        self._metrics.count(names.SCORED_TOKENS, tokens)
        self._metrics.count(names.WORKER_SECONDS, seconds)
        self._metrics.count(names.GPU_SECONDS, seconds * self._gpus)

    def generation(self, seconds_left: float | None) -> None:
        """A generation has ended, or, at the start, had ended before.

        Args:
            seconds_left: until the search ends, estimated; None where nothing is known.
        """
        progress, last = self._search.progress, self._search.last
        assert progress is not None
        self._metrics.show(
            {
                names.BEST: progress.best,
                names.MEDIAN: progress.median,
                names.GENERATION: progress.generation + 1,
                names.IMPROVED: self._search.strategy.improved,
                names.SECONDS_LEFT: 0.0 if self._search.ended else seconds_left,
            }
        )
        if last is None:
            return
        full = [row for row in last.rows if row.status == "full"]
        if full:
            fitness = [row.fitness for row in full]
            low, high = np.quantile(fitness, (0.1, 0.9)).tolist()
            self._metrics.show({names.P10: low, names.P90: high})
            self._metrics.observe(names.FITNESS, fitness)
            self._full_tokens = full[0].tokens
        self._metrics.count(names.EVALUATIONS, len(last.rows))
        self._metrics.count(names.FULL_TOKENS, len(last.rows) * self._full_tokens)
        self._metrics.count(names.FAILED, progress.failed)
        for stage, count in last.screened.items():
            self._metrics.count(names.SCREENED, count, rung=str(stage))
        for operator, count in last.accepted.items():
            self._metrics.count(names.ACCEPTED, count, operator=operator)

    def __enter__(self) -> SearchMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.stop()


class PoolMetrics:
    """The metrics of a run's workers; a context manager.

    Args:
        pool: the workers.
        run: the run's name.
        spent: the time that the run has taken.
    """

    def __init__(self, pool: Pool | SharedPool, run: str, spent: Spent) -> None:
        self._pool, self._spent = pool, spent
        self._restarts = 0
        self._counted: defaultdict[names.Metric, float] = defaultdict(float)
        self._shown = -math.inf
        self._metrics = RayMetrics(names.POOL, {"run": run})

    def show(self, scored: Iterable[ShardScore | GateGradients], units_per_second: float) -> None:
        """Show how the workers are, once a second: the loop that feeds them calls this each time.

        Args:
            scored: results of the units that have come in since this was called last.
            units_per_second: of late.
        """
        for result in scored:
            self._counted[names.UNITS] += 1
            if isinstance(result, ShardScore):
                self._counted[names.GATHERING] += result.gathering
                self._counted[names.COMPUTING] += result.seconds - result.gathering
        if (now := time.monotonic()) < self._shown + SHOW_SECONDS:
            return
        self._shown = now
        state = self._pool.state()
        self._metrics.show(
            {
                names.WANTED: state.wanted,
                names.ALIVE: state.alive,
                names.BUSY: state.busy,
                names.QUEUED: state.queued,
                names.UNITS_PER_SECOND: units_per_second,
                names.HOURS: self._spent.seconds / 3600,
                names.GPU_HOURS: self._spent.gpu_seconds / 3600,
            }
        )
        self._counted[names.RESTARTS] += state.restarts - self._restarts
        self._restarts = state.restarts
        self._count()

    def __enter__(self) -> PoolMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._count()
        self._metrics.stop()

    def _count(self) -> None:
        for metric, amount in self._counted.items():
            self._metrics.count(metric, amount)
        self._counted.clear()
