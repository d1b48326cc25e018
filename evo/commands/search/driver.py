"""`evo search`: searches as lanes on one pool of workers. Ask, score, tell, write down."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from evo.algorithms.base import Proposal
from evo.commands.search.config import SearchConfig
from evo.commands.search.display import SearchDisplay
from evo.commands.search.inputs import SearchInputs
from evo.commands.search.searches import lanes_of
from evo.commands.search.summary import conclude
from evo.ray_connection import connect
from evo.search.history import Shard
from evo.search.rungs import Stages
from evo.search.search import Lane
from evo.storage.files import exclusive
from workers.pool.metrics import SearchMetrics, SearchStatus
from workers.pool.pool import Pool, UnitResult
from workers.pool.queues import Unit
from workers.pool.shared_pool import SharedPool

logger = logging.getLogger("evo.search")

LOOK_INTERVAL = 0.02
"""Seconds between looks at the pool while a lane makes its proposals."""


def search(config: SearchConfig) -> dict[str, Any]:
    """Run, or go on with, every search of a run.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UserError: bad input, before anything is written.
    """
    inputs = SearchInputs(config)
    summary_path = config.out / "summary.json"
    if inputs.resumed and summary_path.is_file():
        logger.info("%s has finished already", config.out)
        return json.loads(summary_path.read_text())
    with exclusive(config.out):
        connect()
        order = inputs.order()
        inputs.settle_micro_batch(order)
        lanes = lanes_of(inputs, order)
        winners: dict[str, float | None] = {}
        if inputs.proxy or not all(lane.ended for lane in lanes):
            with inputs.pool() as pool:
                driver = Driver(config, inputs.stages, lanes, pool)
                driver.drive()
                if inputs.proxy:
                    winners = driver.measure_winners()
        return conclude(inputs, lanes, winners)


class Driver:
    """Keeps the pool fed until every lane has ended.

    Args:
        config: of the run, of which its name, its budget and the kind of fitness are shown.
        stages: how the text is cut.
        lanes: the searches.
        pool: who scores.
    """

    def __init__(
        self, config: SearchConfig, stages: Stages, lanes: list[Lane], pool: Pool | SharedPool
    ) -> None:
        self.config, self.stages, self.pool = config, stages, pool
        self.lanes = {lane.name: lane for lane in lanes}
        self.finished_at: deque[float] = deque(maxlen=200)
        self.results: list[UnitResult] = []  # that came while a lane was proposing
        self.looked_at = 0.0
        self.resources = ExitStack()
        self.metrics = {lane.name: self._metrics(lane) for lane in lanes}
        console = Console(stderr=True)
        self.display = SearchDisplay(
            list(self.lanes),
            config.budget,
            console,
            is_nll=config.fitness == "perplexity",
        )

    def drive(self) -> None:
        """Until all lanes have ended."""
        with self.resources, self.display:
            for lane in self.lanes.values():
                if lane.progress is not None:
                    self._announce(lane)
                self._advance(lane)
            while self.results or self.pool.pending():
                results, self.results = self.results or self.pool.wait(1.0), []
                by_lane: dict[str, list[Shard]] = {}
                for one in results:
                    self.finished_at.append(time.monotonic())
                    by_lane.setdefault(one.unit.lane, []).append(_shard(one))
                for name, shards in by_lane.items():
                    self.metrics[name].count(scored_tokens=sum(one.tokens for one in shards))
                    self.lanes[name].take(shards)
                    self._advance(self.lanes[name])
                self.display.pool(self.pool.workers, self._rate())

    def measure_winners(self) -> dict[str, float | None]:
        """The NLL of each lane's best candidate on the whole text; None where it has none."""
        best = {name: lane.best_row() for name, lane in self.lanes.items()}
        for name, row in best.items():
            if row is not None:
                self.pool.submit(
                    Unit(name, row.candidate, row.genome, shard, start, stop)
                    for shard, (start, stop) in enumerate(self.stages.shards)
                )
        scores: dict[str, dict[int, Shard]] = {name: {} for name in self.lanes}
        while self.pool.pending():
            for one in self.pool.wait(1.0):
                scores[one.unit.lane][one.unit.shard] = _shard(one)
        return {
            row.candidate: self.lanes[name].mean_nll(
                [scores[name][i] for i in sorted(scores[name])]
            )
            for name, row in best.items()
            if row is not None
        }

    def _advance(self, lane: Lane) -> None:
        """End the generation if it is complete, and begin the next ones as far as need be."""
        while not lane.ended:
            if not lane.has_begun:
                self._submit(lane, lane.begin_generation(self._feed))
            self._submit(lane, lane.advance())
            for candidate in lane.dropped:
                self.pool.cancel(lane.name, candidate)
            if not lane.complete:
                return
            evaluations = lane.evaluations
            lane.end_generation()
            self.metrics[lane.name].count(evaluations=lane.evaluations - evaluations)
            self._announce(lane)

    def _feed(self) -> None:
        """Hand out what other lanes have queued; what comes in is for the loop."""
        if time.monotonic() > self.looked_at + LOOK_INTERVAL:
            self.results += self.pool.wait(0)
            self.looked_at = time.monotonic()

    def _submit(self, lane: Lane, wanted: list[tuple[Proposal, int]]) -> None:
        if not wanted:
            return
        genomes = {one.subnet.id: one.subnet.pack() for one, _ in wanted}  # shared by their units
        shards = lane.stages.shards
        self.pool.submit(
            Unit(lane.name, one.subnet.id, genomes[one.subnet.id], shard, *shards[shard])
            for one, shard in wanted
        )

    def _announce(self, lane: Lane) -> None:
        progress = lane.progress
        assert progress is not None
        self.display.generation(lane.name, progress, lane.ended)
        self.metrics[lane.name].show(
            SearchStatus(
                best_fitness=progress.best,
                median_fitness=progress.median,
                generation=progress.generation,
                units_per_second=self._rate(),
            )
        )

    def _metrics(self, lane: Lane) -> SearchMetrics:
        space = lane.strategy.space
        name = self.config.out.resolve().name
        return self.resources.enter_context(
            SearchMetrics(run=name, space=space.name, bin=space.bin.name)
        )

    def _rate(self) -> float:
        """Units per second, of late."""
        if len(self.finished_at) < 2:
            return 0.0
        return (len(self.finished_at) - 1) / max(1e-9, time.monotonic() - self.finished_at[0])


def _shard(result: UnitResult) -> Shard:
    unit = result.unit
    return Shard(
        unit.candidate,
        unit.shard,
        result.nll,
        result.tokens,
        result.seconds,
        result.failure,
        result.divergence,
        result.latency,
    )
