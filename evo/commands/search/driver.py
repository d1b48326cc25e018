"""`evo search`: several searches on one pool of workers. Ask, score, tell, write down."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from evo.commands.search.claim import claim
from evo.commands.search.config import SearchConfig
from evo.commands.search.display import SearchDisplay
from evo.commands.search.inputs import read_inputs
from evo.commands.search.measurements import order_of, proxy_of, with_micro_batch
from evo.commands.search.search_metrics import PoolMetrics, SearchMetrics
from evo.commands.search.searches import open_pool, searches_of
from evo.commands.search.summary import conclude
from evo.genome.operators.gate_swaps import GateGradients
from evo.ray_connection import connect
from evo.search.generation import CandidateShard, Request
from evo.search.search import Search
from evo.search.shard_score import ShardScore
from evo.search.spent import Spent
from evo.storage.files import exclusive
from evo.storage.records import read_json
from workers.pool.pool import Pool, ScoredUnit
from workers.pool.queues import Unit
from workers.pool.shared_pool import SharedPool

logger = logging.getLogger("evo.search")

LOOK_INTERVAL = 0.02
"""Seconds between looks at the pool while a search makes its proposals."""


def search(config: SearchConfig) -> dict[str, Any]:
    """Run, or go on with, every search of a run.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UserError: bad input, before anything is written.
    """
    inputs = read_inputs(config)
    summary_path = config.out / "summary.json"
    if claim(inputs, first=connect) and summary_path.is_file():
        logger.info("%s has finished already", config.out)
        return read_json(summary_path, dict[str, Any])
    with exclusive(config.out):
        connect()
        order = order_of(inputs)
        inputs = with_micro_batch(inputs, order)
        spent = Spent(config.out)
        searches = searches_of(inputs, order, proxy_of(inputs), spent)
        winners: dict[str, float | None] = {}
        if inputs.has_proxy or not all(each.ended for each in searches):
            with open_pool(inputs) as pool:
                Driver(inputs.config, searches, pool, spent).drive()
                if inputs.has_proxy:
                    winners = measure_winners(searches, pool)
        return conclude(inputs, searches, winners)


class Driver:
    """Keeps the pool fed until every search has ended."""

    def __init__(
        self,
        config: SearchConfig,
        searches: Sequence[Search],
        pool: Pool | SharedPool,
        spent: Spent,
    ) -> None:
        self.config, self.pool, self.spent = config, pool, spent
        self.searches = {search.name: search for search in searches}
        self.scored_at: deque[float] = deque(maxlen=200)
        self.scored: list[ScoredUnit] = []  # while a search was proposing
        self.looked_at = 0.0
        self.resources = ExitStack()
        self.run = config.out.resolve().name
        self.pool_metrics = self.resources.enter_context(PoolMetrics(pool, self.run, spent))
        self.metrics = {search.name: self._metrics(search) for search in searches}
        console = Console(stderr=True)
        is_nll = config.fitness == "perplexity"
        self.display = SearchDisplay(
            list(self.searches), config.budget, spent, console, is_nll=is_nll
        )

    def drive(self) -> None:
        """Score until all searches have ended."""
        with self.resources, self.display:
            for each in self.searches.values():
                if each.progress is not None:
                    self._announce(each)
                self._advance(each)
            while self.scored or self.pool.pending():
                self.spent.tick(self.pool.workers * self.config.gpus_per_worker)
                scored, self.scored = self.scored or self.pool.wait(1.0), []
                self._take(scored)
                for name in dict.fromkeys(unit.search for unit, _ in scored):
                    self._advance(self.searches[name])
                self.display.pool(self.pool.workers, self._rate())
                self.pool_metrics.show([result for _, result in scored], self._rate())
            self.spent.write()
        if unfinished := [name for name, each in self.searches.items() if not each.ended]:
            raise RuntimeError(f"nothing is left to score, but these go on: {unfinished}")

    def _take(self, scored: Sequence[ScoredUnit]) -> None:
        """Give scores, and gradients, to the searches that have asked for them."""
        scores: dict[str, dict[CandidateShard, ShardScore]] = {}
        gradients: dict[str, dict[CandidateShard, GateGradients | ShardScore]] = {}
        for unit, result in scored:
            self.scored_at.append(time.monotonic())
            if unit.kind == "gates":
                gradients.setdefault(unit.search, {})[unit.candidate, unit.shard] = result
            elif isinstance(result, ShardScore):
                scores.setdefault(unit.search, {})[unit.candidate, unit.shard] = result
        for name, parts in gradients.items():
            for candidate in self.searches[name].take_gates(parts):
                self.pool.cancel(name, candidate)
        for name, found in scores.items():
            tokens = sum(score.tokens for score in found.values())
            self.metrics[name].scored(tokens, sum(score.seconds for score in found.values()))
            self.searches[name].take(found)

    def _advance(self, search: Search) -> None:
        """End the generation if it is complete, and begin the next ones as far as need be."""
        while not search.ended:
            if not search.has_begun:
                self._submit_gates(search)
                if search.awaits_gates:
                    return
                self._submit(search, search.begin_generation(self._keep_scoring))
            self._submit(search, search.advance())
            for candidate in search.dropped:
                self.pool.cancel(search.name, candidate)
            if not search.complete:
                return
            search.end_generation()
            self._announce(search)

    def _keep_scoring(self) -> None:
        """Hand out what other searches have queued; what comes in is for the loop."""
        if time.monotonic() > self.looked_at + LOOK_INTERVAL:
            self.scored += self.pool.wait(0)
            self.looked_at = time.monotonic()

    def _submit_gates(self, search: Search) -> None:
        self.pool.submit(
            Unit(search.name, candidate.id, candidate.pack(), part, row, row + 1, "gates")
            for candidate, part, row in search.open_gates()
        )

    def _submit(self, search: Search, requests: Sequence[Request]) -> None:
        if not requests:
            return
        # One genome of each candidate is shared by its units.
        genomes = {proposal.subnet.id: proposal.subnet.pack() for proposal, _ in requests}
        shards = search.stages.shards
        candidates = [(proposal.subnet.id, shard) for proposal, shard in requests]
        self.pool.submit(
            Unit(search.name, candidate, genomes[candidate], shard, *shards[shard])
            for candidate, shard in candidates
        )

    def _announce(self, search: Search) -> None:
        progress = search.progress
        assert progress is not None
        left = self.display.generation(search.name, progress, search.ended)
        self.metrics[search.name].generation(left)

    def _metrics(self, search: Search) -> SearchMetrics:
        gpus, generations = self.config.gpus_per_worker, self.config.generations
        made = SearchMetrics(search, self.run, gpus=gpus, generations=generations)
        return self.resources.enter_context(made)

    def _rate(self) -> float:
        """Units per second, of late."""
        if len(self.scored_at) < 2:
            return 0.0
        return (len(self.scored_at) - 1) / max(1e-9, time.monotonic() - self.scored_at[0])


def measure_winners(searches: Sequence[Search], pool: Pool | SharedPool) -> dict[str, float | None]:
    """The NLL, on the whole text, of each search's best candidate; None where it failed."""
    best = {search.name: row for search in searches if (row := search.best_row()) is not None}
    stages = {search.name: search.screening.stages for search in searches}
    pool.submit(
        Unit(name, row.candidate, row.genome, shard, *rows)
        for name, row in best.items()
        for shard, rows in enumerate(stages[name].shards)
    )
    scores: dict[str, dict[int, ShardScore]] = {name: {} for name in best}
    while pool.pending():
        for unit, score in pool.wait(1.0):
            assert isinstance(score, ShardScore)
            scores[unit.search][unit.shard] = score
    return {
        best[search.name].candidate: search.mean_nll(sorted(scores[search.name].items()))
        for search in searches
        if search.name in best
    }
