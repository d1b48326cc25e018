"""`evo search`: searches as lanes on one pool of workers. Ask, score, tell, write down."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from evo import checkpoint
from evo.baselines import LocalSearch, RandomSearch
from evo.bins import Bin, parse_bin
from evo.checkpoint import Checkpoint
from evo.cluster import connect
from evo.cost import parameters
from evo.display import SearchDisplay
from evo.errors import UserError
from evo.evolution import Evolution, Rates
from evo.files import atomic_file
from evo.history import History, Shard
from evo.importance import activation_flops
from evo.lane import Lane
from evo.model import named_parameters
from evo.order import KINDS, Order
from evo.settings import claim_run
from evo.space import SPACES, Space
from evo.strategy import Budget, Proposal, Strategy
from evo.text import Text, load_text, sequence_length_of
from evo.winner import save_candidate
from workers.metrics import SearchMetrics, SearchStatus
from workers.pool import Pool, PoolSettings
from workers.queues import Unit
from workers.ranking import rank
from workers.scorer import ScoringSettings

logger = logging.getLogger("evo.search")

ALGORITHMS = ("evolution", "random", "local")


@dataclass(frozen=True)
class SearchConfig:
    """Search a teacher for its best subnets, one search for every space and bin.

    Running the same command again resumes.

    Attributes:
        teacher: checkpoint directory in litgpt's layout (`evo import` makes one).
        text: source of the fitness text: stdlib:train, stdlib:validation, hf:REPO[:CONFIG]:SPLIT,
            or a path or glob of .txt, .jsonl, .parquet or .npy.
        bins: ranges of parameters: 385M-426M, 400M or 40% (plus or minus 5%), or a litgpt model's
            name.
        out: run directory.
        spaces: coarse-uniform, coarse-layerwise, fine-uniform, fine-layerwise.
        population: candidates of a generation.
        generations: generations after the first, random one.
        patience: end a search after so many generations without a better best.
        seed: of all randomness; the same seed gives the same history on any number of workers.
        algorithm: evolution, or a baseline: random (samples only), local (mutates the best).
        elites: how many of the best candidates are parents.
        mutation_rate: share of offspring that mutate one elite.
        crossover_rate: share that recombine two elites; the rest are random samples.
        order: what "the first n" means: index (as stored, the paper's), magnitude (of weights) or
            activation (contributions on text).
        order_text: source for the activation order; by default the fitness text.
        in_bin: fit moves every proposal into its bin; reject draws until one is in it, as the
            paper does.
        sequence_length: tokens of a sequence; by default the teacher's block size, at most 2048.
        max_tokens: use so many tokens of the text at most, evenly spaced; by default all.
        shard_tokens: tokens of a unit of work, one candidate on one slice of the text.
        micro_batch: sequences that run through a candidate at once.
        dtype: float32 or bfloat16; by default float32 on CPU and bfloat16 on CUDA.
        threads: CPU threads of a worker.
        workers: how many; by default as many as the cluster has room for. May differ at every
            start.
        gpus_per_worker: 0 scores on CPU; a fraction lets several workers share a GPU.

    Raises:
        UserError: a value that makes no sense.
    """

    teacher: Path
    text: str
    bins: list[str]
    out: Path
    spaces: list[str] = field(default_factory=lambda: ["coarse-uniform"])
    population: int = 50
    generations: int = 100
    patience: int | None = None
    seed: int = 0
    algorithm: Literal["evolution", "random", "local"] = "evolution"
    elites: int = 10
    mutation_rate: float = 0.5
    crossover_rate: float = 0.4
    order: Literal["index", "magnitude", "activation"] = "activation"
    order_text: str | None = None
    in_bin: Literal["fit", "reject"] = "fit"
    sequence_length: int | None = None
    max_tokens: int | None = None
    shard_tokens: int = 16384
    micro_batch: int = 8
    dtype: Literal["float32", "bfloat16"] | None = None
    threads: int = 1
    workers: int | None = None
    gpus_per_worker: float = 0

    def __post_init__(self) -> None:
        for name, known in (("order", KINDS), ("algorithm", ALGORITHMS)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"unknown {name} {getattr(self, name)!r}: give one of {', '.join(known)}"
                )
        for name in ("bins", "spaces"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name} {' '.join(values)}: give at least one, each once")
        for space in self.spaces:
            if space not in SPACES:
                raise UserError(f"unknown space {space!r}: the spaces are {', '.join(SPACES)}")
        if self.shard_tokens < 1:
            raise UserError(f"shards of {self.shard_tokens} tokens cannot be: give at least 1")
        if self.seed < 0:
            raise UserError(f"a seed of {self.seed} cannot be: give 0 or more")
        _ = self.budget, self.rates, self.scoring, self.pool  # each validates its own

    @property
    def budget(self) -> Budget:
        """How long a search goes on."""
        return Budget(self.population, self.generations, self.patience)

    @property
    def rates(self) -> Rates:
        """Where offspring come from."""
        return Rates(self.elites, self.mutation_rate, self.crossover_rate)

    @property
    def scoring(self) -> ScoringSettings:
        """How candidates are scored."""
        device: Literal["cpu", "cuda"] = "cuda" if self.gpus_per_worker else "cpu"
        return ScoringSettings(
            device=device, dtype=self.dtype, micro_batch=self.micro_batch, threads=self.threads
        )

    @property
    def pool(self) -> PoolSettings:
        """How many workers, and on what."""
        return PoolSettings(workers=self.workers, gpus_per_worker=self.gpus_per_worker)


FREE = ("workers", "gpus_per_worker", "teacher", "out")
"""Settings that may differ when a run is resumed; the teacher is compared by its hash."""


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
    connect()
    lanes = run.lanes(run.order())
    if not all(lane.ended for lane in lanes):
        with Pool(run.teacher.path, run.text.blocks, config.scoring, config.pool) as pool:
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
        self.length = sequence_length_of(config.sequence_length, self.teacher.config.block_size)
        self.text = self._load(config.text, config.max_tokens)
        self.order_text = self._load(config.order_text) if config.order_text else self.text
        for bin in self.bins:  # refuses what cannot be reached, before anything is written
            for space in config.spaces:
                Space(space, architecture, Order.by_index(architecture.dimensions), bin)
        self.rows_per_shard = max(1, config.shard_tokens // self.text.blocks.shape[1])
        self.shards = -(-len(self.text.blocks) // self.rows_per_shard)
        self.resumed = claim_run(config.out, self._settings(), free=FREE)

    def _load(self, source: str, max_tokens: int | None = None) -> Text:
        return load_text(
            source,
            tokenizer=self.teacher.tokenizer,
            vocabulary=self.teacher.vocabulary,
            sequence_length=self.length,
            max_tokens=max_tokens,
        )

    def _settings(self) -> dict[str, Any]:
        settings = asdict(self.config)
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
        return [self._lane(space, bin, order) for bin in self.bins for space in self.config.spaces]

    def _lane(self, space_name: str, bin: Bin, order: Order) -> Lane:
        name = f"{space_name}@{bin.name}"
        space = Space(space_name, self.teacher.architecture, order, bin, self.config.in_bin)
        history = History(self.config.out / "searches" / name)
        return Lane(
            name, self._strategy(space, _seed(self.config.seed, name)), history, self.shards
        )

    def _strategy(self, space: Space, seed: list[int]) -> Strategy:
        if self.config.algorithm == "random":
            return RandomSearch(space, self.config.budget, seed)
        if self.config.algorithm == "local":
            return LocalSearch(space, self.config.budget, seed)
        return Evolution(space, self.config.budget, seed, self.config.rates)

    def conclude(self, lanes: list[Lane]) -> dict[str, Any]:
        """Extract the winners and write the summary."""
        searches = [self._conclude(lane) for lane in lanes]
        summary = {
            "teacher": str(self.teacher.path.resolve()),
            "text": asdict(self.text) | {"blocks": list(self.text.blocks.shape)},
            "order": self.config.order,
            "order_flops": self._order_flops(),
            "searches": searches,
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
            "nll": row.nll if row else None,
            "perplexity": row.perplexity if row else None,
            "evaluations": lane.evaluations,
            "generations": lane.strategy.generation,
            "tokens_scored": lane.tokens,
            "flops": lane.scored_flops(self.text.blocks.shape[1]),
            "seconds": sum(one.seconds for one in lane.history.rows),
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
                wanted = lane.begin_generation()
                self.pool.submit([self._unit(lane, proposal, shard) for proposal, shard in wanted])
            if not lane.complete:
                return
            evaluations = lane.evaluations
            lane.end_generation()
            self.metrics[lane.name].count(evaluations=lane.evaluations - evaluations)
            self._announce(lane)

    def _unit(self, lane: Lane, proposal: Proposal, shard: int) -> Unit:
        start = shard * self.run.rows_per_shard
        stop = min(start + self.run.rows_per_shard, len(self.run.text.blocks))
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
