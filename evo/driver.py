"""`evo search`: searches as lanes on one pool of workers. Ask, score, tell, write down."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from rich.console import Console

from evo import checkpoint, warm_start
from evo.baselines import LocalSearch, RandomSearch
from evo.bins import Bin, parse_bin
from evo.checkpoint import Checkpoint
from evo.cluster import connect
from evo.cost import Cost
from evo.display import SearchDisplay
from evo.divergence import Divergence
from evo.errors import UserError
from evo.evolution import Evolution
from evo.files import atomic_file, exclusive
from evo.front import best_of_bins, pareto_front, points_of
from evo.head_size_space import HeadSizeSpace
from evo.history import History, Row, Shard, perplexity
from evo.importance import activation_flops
from evo.lane import Lane
from evo.mixture import Mixture, load_mixture
from evo.model import named_cost, with_head_size
from evo.one_plus_lambda import OnePlusLambda
from evo.order import Order
from evo.proxy import PROXIES, Importance, Proxy
from evo.rungs import Stages, spread
from evo.score_cache import ScoreCache, score_key
from evo.search_config import FREE, SearchConfig
from evo.settings import FILE as SETTINGS
from evo.settings import claim_run, read_settings, settle
from evo.space import Space
from evo.strategy import Proposal, Strategy
from evo.text import Text, cache_directory, load_text, sequence_length_of
from evo.warm_start import Taken
from evo.winner import save_candidate
from workers.metrics import SearchMetrics, SearchStatus
from workers.micro_batch import find_micro_batch, largest
from workers.pool import Pool, UnitResult
from workers.queues import Unit
from workers.ranking import measure_importance, rank
from workers.scorer import ScoringSettings
from workers.shared_pool import SharedPool

logger = logging.getLogger("evo.search")

SIZE_SAMPLES = 32
"""Candidates of each search among which the largest is looked for."""


def search(config: SearchConfig) -> dict[str, Any]:
    """Run, or go on with, every search of a run.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UserError: bad input, before anything is written.
    """
    run = _Run(config)
    summary_path = config.out / "summary.json"
    if run.resumed and summary_path.is_file():
        logger.info("%s has finished already", config.out)
        return json.loads(summary_path.read_text())
    with exclusive(config.out):
        connect()
        order = run.order()
        run.settle_micro_batch(order)
        lanes = run.lanes(order)
        winners: dict[str, float | None] = {}
        if run.proxy or not all(lane.ended for lane in lanes):
            with run.pool() as pool:
                driver = _Driver(run, lanes, pool)
                driver.drive()
                if run.proxy:
                    winners = driver.measure_winners()
        return run.conclude(lanes, winners)


class _Run:
    """What a run consists of before any work: inputs, checked, and its directory."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.teacher: Checkpoint = checkpoint.load(config.teacher)
        if not self.teacher.widths.is_uniform:
            raise UserError(f"{config.teacher} is layer-wise: a teacher's blocks must be alike")
        architecture = self.teacher.architecture
        self.length = sequence_length_of(config.sequence_length, self.teacher.config.block_size)
        self.bins = self._bins()
        if len({bin.name for bin in self.bins}) < len(self.bins):
            raise UserError(f"--bins {' '.join(config.bins)}: two of them are one bin")
        self.text = load_mixture(self._load, config.sources, config.text_weights, config.max_tokens)
        self.order_text: Text | Mixture = (
            self._load(config.order_text) if config.order_text else self.text
        )
        for head_size in config.head_sizes or []:
            with_head_size(self.teacher.config, head_size)  # refuses what cannot be cut
        for bin in self.bins:  # refuses what cannot be reached, before anything is written
            for space in config.spaces:
                self._space(space, bin, Order.by_index(architecture.dimensions))
        rows, length = self.text.blocks.shape
        spread_out = spread(rows)
        self.blocks, self.weights = self.text.blocks[spread_out], self.text.weights[spread_out]
        self.stages = Stages.of(config.stages, rows, max(1, config.shard_tokens // length))
        self.scoring = self._scoring()
        self.proxy = config.fitness in PROXIES
        self.taken = self._taken()
        self.resumed = claim_run(config.out, self._settings(), free=FREE)
        if self.taken and not (config.out / warm_start.FILE).is_file():
            warm_start.save(self.taken, config.out / warm_start.FILE)

    def _bins(self) -> list[Bin]:
        length = 0 if self.config.cost == "parameters" else self.config.cost_length or self.length
        cost = Cost(self.config.cost, length)
        architecture = self.teacher.architecture
        size = cost.of(architecture, architecture.full_widths)
        return [
            parse_bin(text, size, lambda name: named_cost(name, cost), cost)
            for text in self.config.bins
        ]

    def _load(self, source: str, max_tokens: int | None = None) -> Text:
        return load_text(
            source,
            tokenizer=self.teacher.tokenizer,
            vocabulary=self.teacher.vocabulary,
            sequence_length=self.length,
            max_tokens=max_tokens,
        )

    def _scoring(self) -> ScoringSettings:
        """How candidates are scored; the micro-batch as an earlier start may have found it."""
        scoring, divergence = self.config.scoring, None
        if self.config.fitness == "kl":
            divergence = Divergence(self.teacher.vocabulary, self.config.kl_top_k)
        if scoring.micro_batch is None and (self.config.out / SETTINGS).is_file():
            found = read_settings(self.config.out).get("micro_batch")
            scoring = replace(scoring, micro_batch=found)
        return replace(scoring, divergence=divergence)

    def settle_micro_batch(self, order: Order) -> None:
        """Find the micro-batch where it was left open: by the largest of some candidates."""
        if self.scoring.micro_batch is not None:
            return
        rng = np.random.default_rng(self.config.seed)
        architecture, sequences = (
            self.teacher.architecture,
            max(stop - start for start, stop in self.stages.shards),
        )
        candidates = [
            self._space(space, bin, order).sample(rng)
            for bin in self.bins
            for space in self.config.spaces
            for _ in range(SIZE_SAMPLES)
        ]
        found = find_micro_batch(
            self.teacher.path.resolve(),
            largest(candidates, architecture, sequences * self.blocks.shape[1]),
            self.blocks,
            sequences,
            self.scoring,
            self.config.gpus_per_worker,
        )
        logger.info("a micro-batch of %d sequences fits", found)
        settle(self.config.out, "micro_batch", found)
        self.scoring = replace(self.scoring, micro_batch=found)

    def _space(self, name: str, bin: Bin, order: Order) -> Space:
        architecture, limits = self.teacher.architecture, self.config.limits
        inputs = name, architecture, order, bin, self.config.in_bin, limits
        if self.config.head_sizes is None:
            return Space(*inputs)
        return HeadSizeSpace(*inputs, head_sizes=self.config.head_sizes)

    def _taken(self) -> list[Taken]:
        """What the searches begin with: taken from another run once, and kept in this one's."""
        if self.config.start_from is None:
            return []
        kept = self.config.out / warm_start.FILE
        if kept.is_file():
            return warm_start.load(kept)
        return warm_start.take(
            self.config.start_from, self.teacher.hash, self.config.budget.population
        )

    def _settings(self) -> dict[str, Any]:
        settings, start_from = asdict(self.config), self.config.start_from
        settings.update(
            teacher=str(self.teacher.path.resolve()),
            out=str(self.config.out.resolve()),
            text=self.config.sources,
            dtype=self.scoring.dtype,
            device=self.scoring.device,
            micro_batch=self.scoring.micro_batch,
            sequence_length=self.length,
            teacher_hash=self.teacher.hash,
            text_hash=self.text.hash,
            order_text_hash=self.order_text.hash,
            text_note=self.text.note,
            start_from=str(start_from.resolve()) if start_from else None,
            start_hash=warm_start.digest(self.taken) if self.taken else None,
        )
        return settings

    def order(self) -> Order:
        """The order of this run, ranked when it is first asked for."""
        path = self.config.out / "order.npz"
        if not path.is_file():
            if self.config.order != "index":
                logger.info("ranking the teacher's parts by %s", self.config.order)
            rank(
                self.teacher.path.resolve(),
                self.teacher.hash,
                self.teacher.architecture.dimensions,
                self.config.order,
                self.order_text.blocks,
                self.order_text.hash,
                self.scoring,
                self.config.gpus_per_worker,
            ).save(path)
        return Order.load(path)

    def _proxy(self) -> Proxy | None:
        """The fitness, where that is one that needs no scoring."""
        if not self.proxy:
            return None
        path = self.config.out / "importance.npz"
        if not path.is_file():
            measure_importance(
                self.teacher.path.resolve(),
                self.teacher.hash,
                self.config.fitness,
                self.order_text.blocks,
                self.order_text.hash,
                self.scoring,
                self.config.gpus_per_worker,
            ).save(path)
        return Proxy(Importance.load(path), self.teacher.config.head_size)

    def pool(self) -> Pool | SharedPool:
        """The workers: this run's own, or those of the pool that it names."""
        settings = self.config.pool_settings
        if self.config.pool is None:
            return Pool(self.teacher.path, self.blocks, self.scoring, settings)
        return SharedPool(
            self.config.pool,
            self.teacher.path,
            self.teacher.hash,
            self.blocks,
            self.scoring,
            settings,
            idle=self.config.pool_idle,
        )

    def lanes(self, order: Order) -> list[Lane]:
        """A lane for every bin and space."""
        cache = self._cache() if self.config.score_cache and not self.proxy else None
        proxy = self._proxy()
        return [
            self._lane(space, bin, order, cache, proxy)
            for bin in self.bins
            for space in self.config.spaces
        ]

    def _cache(self) -> ScoreCache:
        scoring = asdict(self.scoring)
        for name in ("cache_bytes", "teacher_bytes", "device_share"):  # change no bits
            scoring.pop(name, None)
        teacher = f"{self.teacher.hash} {self.teacher.config}"
        return ScoreCache(cache_directory() / "scores", score_key(teacher, self.blocks, scoring))

    def _lane(
        self,
        space_name: str,
        bin: Bin,
        order: Order,
        cache: ScoreCache | None,
        proxy: Proxy | None,
    ) -> Lane:
        name = f"{space_name}@{bin.name}"
        space = self._space(space_name, bin, order)
        history = History(self.config.out / "searches" / name)
        seed = _seed(self.config.seed, name)
        strategy = self._strategy(space, seed)
        if self.taken and history.state is None:
            rng = np.random.default_rng([*seed, 1])  # a stream of its own
            strategy.starts = warm_start.starts(
                self.taken, space, self.config.budget.population, rng
            )
        return Lane(
            name,
            strategy,
            history,
            self.stages,
            self.config.stages,
            weights=self.weights,
            cache=cache,
            proxy=proxy,
        )

    def _strategy(self, space: Space, seed: list[int]) -> Strategy:
        if self.config.algorithm == "random":
            return RandomSearch(space, self.config.budget, seed)
        if self.config.algorithm == "local":
            return LocalSearch(space, self.config.budget, seed)
        if self.config.algorithm == "one-plus-lambda":
            return OnePlusLambda(space, self.config.budget, seed)
        return Evolution(space, self.config.budget, seed, self.config.rates)

    def conclude(
        self, lanes: list[Lane], winners: Mapping[str, float | None] | None = None
    ) -> dict[str, Any]:
        """Extract the winners and write the summary.

        Args:
            lanes: all ended.
            winners: the NLL of those candidates whose rows have none.
        """
        winners = winners or {}
        searches = [self._conclude(lane, winners) for lane in lanes]
        points = [
            point
            for lane in lanes
            for point in points_of(lane.name, [_with_nll(r, winners) for r in lane.history.rows])
        ]
        summary = {
            "teacher": str(self.teacher.path.resolve()),
            "text": self.text.summary(),
            "fitness": self.config.fitness,
            "order": self.config.order,
            "order_flops": self._order_flops(),
            "searches": searches,
            "best": [_plain(asdict(point)) for point in best_of_bins(points)],
            "front": [_plain(asdict(point)) for point in pareto_front(points)],
        }
        with atomic_file(self.config.out / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _order_flops(self) -> int:
        if "activation" not in (self.config.order, self.config.fitness):
            return 0
        sequences, length = self.order_text.blocks.shape
        return activation_flops(self.teacher.architecture, sequences, length)

    def _conclude(self, lane: Lane, winners: Mapping[str, float | None]) -> dict[str, Any]:
        space, bin = lane.strategy.space, lane.strategy.space.bin
        row = lane.best_row()
        if row is not None:
            row = _with_nll(row, winners)
        winner = lane.history.directory / "winner"
        if row is not None and not winner.is_dir():
            save_candidate(
                self.teacher, row, winner, space=space.name, bin=bin.name, seed=self.config.seed
            )
        summary = {
            "name": lane.name,
            "space": space.name,
            "bin": bin.name,
            "cost": bin.cost.kind,
            "cost_length": bin.cost.length,
            "low": bin.low,
            "high": bin.high,
            "candidate": row.candidate if row else None,
            "params": row.params if row else None,
            "fitness": row.fitness if row else None,
            "nll": row.nll if row else None,
            "perplexity": row.perplexity if row else None,
            "evaluations": lane.evaluations,
            "scored_in_full": sum(one.status == "full" for one in lane.history.rows),
            "generations": lane.strategy.generation,
            "tokens_scored": lane.tokens,
            "flops": lane.scored_flops(self.text.blocks.shape[1]),
            "seconds": sum(one.seconds for one in lane.history.rows),
            "cached_units": lane.cached_units,
            "ended": lane.ended,
            "winner": str(winner.resolve()) if row else None,
        }
        return _plain(summary)


class _Driver:
    """Keeps the pool fed until every lane has ended."""

    def __init__(self, run: _Run, lanes: list[Lane], pool: Pool | SharedPool) -> None:
        self.run, self.pool = run, pool
        self.lanes = {lane.name: lane for lane in lanes}
        self.finished_at: deque[float] = deque(maxlen=200)
        self.resources = ExitStack()
        self.metrics = {lane.name: self._metrics(lane) for lane in lanes}
        console = Console(stderr=True)
        self.display = SearchDisplay(
            list(self.lanes),
            run.config.budget,
            console,
            is_nll=run.config.fitness == "perplexity",
        )

    def drive(self) -> None:
        """Until all lanes have ended."""
        with self.resources, self.display:
            for lane in self.lanes.values():
                if lane.progress is not None:
                    self._announce(lane)
                self._advance(lane)
            while self.pool.pending():
                results = self.pool.wait(1.0)
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
                    for shard, (start, stop) in enumerate(self.run.stages.shards)
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
                self._submit(lane, lane.begin_generation())
            self._submit(lane, lane.advance())
            for candidate in lane.dropped:
                self.pool.cancel(lane.name, candidate)
            if not lane.complete:
                return
            evaluations = lane.evaluations
            lane.end_generation()
            self.metrics[lane.name].count(evaluations=lane.evaluations - evaluations)
            self._announce(lane)

    def _submit(self, lane: Lane, wanted: list[tuple[Proposal, int]]) -> None:
        self.pool.submit([self._unit(lane, proposal, shard) for proposal, shard in wanted])

    def _unit(self, lane: Lane, proposal: Proposal, shard: int) -> Unit:
        start, stop = self.run.stages.shards[shard]
        subnet = proposal.subnet
        return Unit(lane.name, subnet.id, subnet.pack(), shard, start, stop)

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
        name = self.run.config.out.resolve().name
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
    )


def _with_nll(row: Row, winners: Mapping[str, float | None]) -> Row:
    """A row whose NLL was measured after the search."""
    nll = winners.get(row.candidate)
    return row if nll is None else replace(row, nll=nll, perplexity=perplexity(nll))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


def _seed(seed: int, name: str) -> list[int]:
    """Searches of one run draw from streams of their own."""
    return [seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")]
