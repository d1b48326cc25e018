"""`evo search`: searches as lanes on one pool of workers. Ask, score, tell, write down."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console

from evo import checkpoint, warm_start
from evo.baselines import LocalSearch, RandomSearch
from evo.bins import Bin, parse_bin
from evo.checkpoint import Checkpoint
from evo.cluster import connect
from evo.cost import parameters
from evo.display import SearchDisplay
from evo.errors import UserError
from evo.evolution import Evolution
from evo.files import atomic_file, exclusive
from evo.front import best_of_bins, pareto_front, points_of
from evo.history import History, Shard
from evo.importance import activation_flops
from evo.lane import Lane
from evo.model import named_parameters
from evo.one_plus_lambda import OnePlusLambda
from evo.order import Order
from evo.rungs import Stages, spread
from evo.score_cache import ScoreCache, score_key
from evo.search_config import FREE, SearchConfig
from evo.settings import claim_run
from evo.space import Space
from evo.strategy import Proposal, Strategy
from evo.text import Text, cache_directory, load_text, sequence_length_of
from evo.warm_start import Taken
from evo.winner import save_candidate
from workers.metrics import SearchMetrics, SearchStatus
from workers.pool import Pool
from workers.queues import Unit
from workers.ranking import rank

logger = logging.getLogger("evo.search")


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
        lanes = run.lanes(run.order())
        if not all(lane.ended for lane in lanes):
            with Pool(run.teacher.path, run.blocks, config.scoring, config.pool) as pool:
                _Driver(run, lanes, pool).drive()
        return run.conclude(lanes)


class _Run:
    """What a run consists of before any work: inputs, checked, and its directory."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.teacher: Checkpoint = checkpoint.load(config.teacher)
        if not self.teacher.widths.is_uniform:
            raise UserError(f"{config.teacher} is layer-wise: a teacher's blocks must be alike")
        architecture = self.teacher.architecture
        size = parameters(architecture, architecture.full_widths)
        self.bins = [parse_bin(text, size, named_parameters) for text in config.bins]
        if len({bin.name for bin in self.bins}) < len(self.bins):
            raise UserError(f"--bins {' '.join(config.bins)}: two of them are one bin")
        self.length = sequence_length_of(config.sequence_length, self.teacher.config.block_size)
        self.text = self._load(config.text, config.max_tokens)
        self.order_text = self._load(config.order_text) if config.order_text else self.text
        for bin in self.bins:  # refuses what cannot be reached, before anything is written
            for space in config.spaces:
                Space(space, architecture, Order.by_index(architecture.dimensions), bin)
        rows, length = self.text.blocks.shape
        self.blocks = self.text.blocks[spread(rows)]
        self.stages = Stages.of(config.stages, rows, max(1, config.shard_tokens // length))
        self.taken = self._taken()
        self.resumed = claim_run(config.out, self._settings(), free=FREE)
        if self.taken and not (config.out / warm_start.FILE).is_file():
            warm_start.save(self.taken, config.out / warm_start.FILE)

    def _load(self, source: str, max_tokens: int | None = None) -> Text:
        return load_text(
            source,
            tokenizer=self.teacher.tokenizer,
            vocabulary=self.teacher.vocabulary,
            sequence_length=self.length,
            max_tokens=max_tokens,
        )

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
            dtype=self.config.scoring.dtype,
            device=self.config.scoring.device,
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
                self.config.scoring,
                self.config.gpus_per_worker,
            ).save(path)
        return Order.load(path)

    def lanes(self, order: Order) -> list[Lane]:
        """A lane for every bin and space."""
        cache = self._cache() if self.config.score_cache else None
        return [
            self._lane(space, bin, order, cache)
            for bin in self.bins
            for space in self.config.spaces
        ]

    def _cache(self) -> ScoreCache:
        scoring = asdict(self.config.scoring)
        for name in ("cache_bytes", "teacher_bytes", "device_share"):  # change no bits
            scoring.pop(name, None)
        teacher = f"{self.teacher.hash} {self.teacher.config}"
        return ScoreCache(cache_directory() / "scores", score_key(teacher, self.blocks, scoring))

    def _lane(self, space_name: str, bin: Bin, order: Order, cache: ScoreCache | None) -> Lane:
        name = f"{space_name}@{bin.name}"
        space = Space(space_name, self.teacher.architecture, order, bin, self.config.in_bin)
        history = History(self.config.out / "searches" / name)
        seed = _seed(self.config.seed, name)
        strategy = self._strategy(space, seed)
        if self.taken and history.state is None:
            rng = np.random.default_rng([*seed, 1])  # a stream of its own
            strategy.starts = warm_start.starts(
                self.taken, space, self.config.budget.population, rng
            )
        return Lane(name, strategy, history, self.stages, self.config.stages, cache=cache)

    def _strategy(self, space: Space, seed: list[int]) -> Strategy:
        if self.config.algorithm == "random":
            return RandomSearch(space, self.config.budget, seed)
        if self.config.algorithm == "local":
            return LocalSearch(space, self.config.budget, seed)
        if self.config.algorithm == "one-plus-lambda":
            return OnePlusLambda(space, self.config.budget, seed)
        return Evolution(space, self.config.budget, seed, self.config.rates)

    def conclude(self, lanes: list[Lane]) -> dict[str, Any]:
        """Extract the winners and write the summary."""
        searches = [self._conclude(lane) for lane in lanes]
        points = [point for lane in lanes for point in points_of(lane.name, lane.history.rows)]
        summary = {
            "teacher": str(self.teacher.path.resolve()),
            "text": asdict(self.text) | {"blocks": list(self.text.blocks.shape)},
            "order": self.config.order,
            "order_flops": self._order_flops(),
            "searches": searches,
            "best": [asdict(point) for point in best_of_bins(points)],
            "front": [asdict(point) for point in pareto_front(points)],
        }
        with atomic_file(self.config.out / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _order_flops(self) -> int:
        if self.config.order != "activation":
            return 0
        sequences, length = self.order_text.blocks.shape
        return activation_flops(self.teacher.architecture, sequences, length)

    def _conclude(self, lane: Lane) -> dict[str, Any]:
        space, bin = lane.strategy.space, lane.strategy.space.bin
        row = lane.best_row()
        winner = lane.history.directory / "winner"
        if row is not None and not winner.is_dir():
            save_candidate(
                self.teacher, row, winner, space=space.name, bin=bin.name, seed=self.config.seed
            )
        return {
            "name": lane.name,
            "space": space.name,
            "bin": bin.name,
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


class _Driver:
    """Keeps the pool fed until every lane has ended."""

    def __init__(self, run: _Run, lanes: list[Lane], pool: Pool) -> None:
        self.run, self.pool = run, pool
        self.lanes = {lane.name: lane for lane in lanes}
        self.finished_at: deque[float] = deque(maxlen=200)
        self.resources = ExitStack()
        self.metrics = {lane.name: self._metrics(lane) for lane in lanes}
        console = Console(stderr=True)
        self.display = SearchDisplay(list(self.lanes), run.config.budget, console)

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
                    by_lane.setdefault(one.unit.lane, []).append(
                        Shard(
                            one.unit.candidate,
                            one.unit.shard,
                            one.nll,
                            one.tokens,
                            one.seconds,
                            one.failure,
                            one.divergence,
                        )
                    )
                for name, shards in by_lane.items():
                    self.metrics[name].count(scored_tokens=sum(one.tokens for one in shards))
                    self.lanes[name].take(shards)
                    self._advance(self.lanes[name])
                self.display.pool(self.pool.workers, self._rate())

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


def _seed(seed: int, name: str) -> list[int]:
    """Searches of one run draw from streams of their own."""
    return [seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")]
