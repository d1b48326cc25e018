"""The inputs of a run: what its searches share, checked before any work, and its directory."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evo.commands.search.config import FREE, SearchConfig
from evo.data.fitness_text import Mixture, load_mixture
from evo.data.revisions import pin_sources
from evo.data.token_blocks import Text, load_text, sequence_length_of
from evo.errors import UserError
from evo.genome import PROXIES
from evo.genome.bins import Bin, parse_bin
from evo.genome.cost import Cost
from evo.genome.head_size_space import HeadSizeSpace
from evo.genome.latency_model import FILE as LATENCIES
from evo.genome.latency_model import Latencies
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.width_limits import Limits
from evo.huggingface.to_config import wants_whole_heads
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from evo.model.kl import Divergence
from evo.model.layerwise_gpt import named_cost, with_head_size
from evo.ray_connection import connect
from evo.search import warm_start
from evo.search.rungs import Stages, spread
from evo.search.warm_start import Taken
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import claim_run, read_settings, settle
from workers.pool.pool import Pool
from workers.pool.shared_pool import SharedPool
from workers.settings import ScoringSettings
from workers.tasks.latency_calibration import calibrate
from workers.tasks.micro_batch import find_micro_batch, largest
from workers.tasks.ranking import measure_sensitivity, rank

logger = logging.getLogger("evo.search")

SIZE_SAMPLES = 32
"""Candidates of each search among which the largest is looked for."""

LATENCY_LENGTH = 256
"""Decode latency is measured at this length at most, unless the user names another."""


class SearchInputs:
    """What a run consists of before any work: inputs, checked, and its directory."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = _pinned(config)
        self.teacher: Checkpoint = checkpoint.load(config.teacher)
        if not self.teacher.widths.is_uniform:
            raise UserError(f"{config.teacher} is layer-wise: a teacher's blocks must be alike")
        architecture = self.teacher.architecture
        self.limits = self._limits()
        self.length = sequence_length_of(config.sequence_length, self.teacher.config.block_size)
        self.scoring = self._scoring()
        self.latencies = self._latencies() if config.cost == "latency" else None
        self.bins = self._bins()
        if len({bin.name for bin in self.bins}) < len(self.bins):
            raise UserError(f"--bins {' '.join(config.bins)}: two of them are one bin")
        self.text = load_mixture(
            self._load, self.config.sources, config.text_weights, config.max_tokens
        )
        order_text = self.config.order_text
        self.order_text: Text | Mixture = self._load(order_text) if order_text else self.text
        for head_size in config.head_sizes or []:
            with_head_size(self.teacher.config, head_size)  # refuses what cannot be cut
        for bin in self.bins:  # refuses what cannot be reached, before anything is written
            for space in config.spaces:
                self.space(space, bin, Order.by_index(architecture.dimensions))
        rows, length = self.text.blocks.shape
        spread_out = spread(rows)
        self.blocks, self.weights = self.text.blocks[spread_out], self.text.weights[spread_out]
        self.stages = Stages.of(config.stages, rows, max(1, config.shard_tokens // length))
        self.proxy = config.fitness in PROXIES
        self.taken = self._taken()
        self.resumed = claim_run(config.out, self._settings(), free=FREE)
        if self.taken and not (config.out / warm_start.FILE).is_file():
            warm_start.save(self.taken, config.out / warm_start.FILE)
        if self.latencies and not (config.out / LATENCIES).is_file():
            self.latencies.save(config.out / LATENCIES)

    def _limits(self) -> Limits:
        """Of the widths, by the user and by what is to express them."""
        limits = self.config.limits
        if self.config.expressible_in is None:
            return limits
        try:
            whole_heads = wants_whole_heads(self.teacher.config)
        except UserError as error:
            raise UserError(f"--expressible-in {self.config.expressible_in}: {error}") from error
        return replace(limits, whole_heads=whole_heads)

    def _latencies(self) -> Latencies:
        """What is known of this teacher's latencies: measured once, and kept with the run."""
        if (self.config.out / LATENCIES).is_file():
            return Latencies.load(self.config.out / LATENCIES)
        connect()
        logger.info("measuring the decode latency of some shapes of the teacher")
        return calibrate(
            self.teacher.path.resolve(),
            self.teacher.architecture,
            self.scoring,
            self.config.gpus_per_worker,
        )

    def _bins(self) -> list[Bin]:
        length = 0 if self.config.cost == "parameters" else self.config.cost_length or self.length
        architecture = self.teacher.architecture
        if self.latencies:
            cost = Cost("latency", self.latencies.length, self.latencies.prices(architecture))
            teacher = self.latencies.teacher
            return [parse_bin(text, teacher, lambda _: None, cost) for text in self.config.bins]
        cost = Cost(self.config.cost, length)
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
        scoring, divergence, latency = self.config.scoring, None, None
        if self.config.cost == "latency":
            latency = self.config.cost_length or min(self.length, LATENCY_LENGTH)
            if latency > self.length:
                raise UserError(
                    f"--cost-length {latency} is beyond the sequences of {self.length} tokens: "
                    "latency is measured within them"
                )
        if self.config.fitness == "kl":
            divergence = Divergence(self.teacher.vocabulary, self.config.kl_top_k)
        if scoring.micro_batch is None and (self.config.out / SETTINGS).is_file():
            found = read_settings(self.config.out).get("micro_batch")
            scoring = replace(scoring, micro_batch=found)
        return replace(scoring, divergence=divergence, latency_length=latency)

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
            self.space(space, bin, order).sample(rng)
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

    def space(self, name: str, bin: Bin, order: Order) -> Space:
        architecture = self.teacher.architecture
        inputs = name, architecture, order, bin, self.config.in_bin, self.limits
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
            teacher = self.teacher.path.resolve(), self.teacher.hash
            text = self.order_text.blocks, self.order_text.hash
            worker = self.scoring, self.config.gpus_per_worker
            dimensions, kind = self.teacher.architecture.dimensions, self.config.order
            order = rank(*teacher, dimensions, kind, *text, *worker)
            if self.needs_sensitivity:
                logger.info("measuring what thinning each layer costs")
                sensitivity = measure_sensitivity(*teacher, kind, order, *text, *worker)
                order = replace(order, sensitivity=sensitivity)
            order.save(path)
        return Order.load(path)

    @property
    def needs_sensitivity(self) -> bool:
        """Whether layer-wise widths are searched by more than the paper's order."""
        layerwise = any(name.endswith("layerwise") for name in self.config.spaces)
        return layerwise and self.config.order != "index"

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


def _pinned(config: SearchConfig) -> SearchConfig:
    """The same, with the commits of the hub's data sets that the run was begun with."""
    text = pin_sources(config.sources, config.out, "text")
    if config.order_text is None:
        return replace(config, text=text)
    (order_text,) = pin_sources([config.order_text], config.out, "order_text")
    return replace(config, text=text, order_text=order_text)
