"""What the searches of a run share, read and checked before anything is written."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evo.algorithms.settings import PROPOSALS
from evo.commands.search.config import SearchConfig
from evo.commands.search.gate_text import gate_text, read_gate_blocks
from evo.data.fitness_text import Mixture, load_mixture
from evo.data.hub import pin_optional, pin_sources
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
from evo.genome.width_limits import WidthLimits
from evo.huggingface.export_checkpoint import portable_config
from evo.huggingface.to_config import native_config, wants_whole_heads
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from evo.model.kl import Divergence
from evo.model.layerwise_gpt import named_cost, with_head_size
from evo.ray_connection import connect
from evo.search import warm_start
from evo.search.gates import GateText
from evo.search.generation import Screening
from evo.search.run_files import read_settled
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages, spread
from evo.search.warm_start import Taken
from workers.pool.stored_teacher import TeacherStore
from workers.settings import ScoringSettings
from workers.tasks.latency_calibration import calibrate
from workers.tasks.ranking import RankingInputs

logger = logging.getLogger("evo.search")

LATENCY_LENGTH = 256
"""Decode latency is measured at this length at most, unless the user names another."""


@dataclass(frozen=True, eq=False)
class SearchInputs:
    """What the searches of a run share.

    Attributes:
        config: with the hub's data sets at the commits with which the run was begun, and the
            niches, proposals and text of gates with which it was; None without these.
        teacher: the checkpoint from which networks are cut.
        store: puts the teacher's weights into Ray's object store, where they are needed.
        length: tokens of a sequence.
        limits: of the widths, by the user and by what is to express the winners.
        scoring: how candidates are scored; the micro-batch may still be open.
        latencies: of some shapes of the teacher, where the cost is latency.
        bins: ranges of the cost.
        text: the fitness text.
        order_text: the text of the activation order.
        blocks: the fitness text in the order in which it is cut into shards, shape [N, T].
        gate_blocks: sequences on which gradients of gates are taken, shape [M, T]; M is 0 where
            none are.
        screening: stages, rungs, and the weights of `blocks`.
        starts: candidates of another run with which the searches begin.
    """

    config: SearchConfig
    teacher: Checkpoint
    store: TeacherStore
    length: int
    limits: WidthLimits
    scoring: ScoringSettings
    latencies: Latencies | None
    bins: list[Bin]
    text: Mixture
    order_text: Text | Mixture
    blocks: NDArray
    gate_blocks: NDArray
    screening: Screening
    starts: list[Taken]

    @property
    def has_proxy(self) -> bool:
        """Whether the fitness needs no scoring."""
        return self.config.fitness in PROXIES

    @property
    def needs_sensitivity(self) -> bool:
        """Whether layer-wise widths are searched by more than the paper's order."""
        layerwise = any(name.endswith("layerwise") for name in self.config.spaces)
        return layerwise and self.config.order != "index"

    @property
    def pool_blocks(self) -> NDArray:
        """The sequences that workers have: those that are scored, then those of gradients."""
        return np.concatenate([self.blocks, self.gate_blocks])

    @property
    def gate_text_hash(self) -> str | None:
        """16 hexadecimal digits over the sequences of gradients; None where there are none."""
        if not len(self.gate_blocks):
            return None
        return hashlib.blake2b(self.gate_blocks.tobytes(), digest_size=8).hexdigest()

    @property
    def gate_text(self) -> GateText | None:
        """Where gradients of gates are taken."""
        start, count = len(self.blocks), len(self.gate_blocks)
        return GateText(start, start + count, self.blocks.shape[1]) if count else None

    @property
    def ranking(self) -> RankingInputs:
        """What the ranking of the teacher's parts depends on."""
        return RankingInputs(
            self.teacher,
            self.store,
            self.order_text.blocks,
            self.order_text.hash,
            self.scoring,
            self.config.gpus_per_worker,
        )

    def space(self, name: str, bin: Bin, order: Order) -> Space:
        """One of the spaces, with a bin of its own.

        What thinning each layer costs is measured for layer-wise spaces: others do without, so that
        they search alike whether there are such spaces beside them or not.
        """
        if not name.endswith("layerwise"):
            order = replace(order, sensitivity=None)
        return _space(self.config, self.teacher, self.limits, name, bin, order)


def read_inputs(config: SearchConfig) -> SearchInputs:
    """Read and check what the searches of a run share; with a cost of latency, measure some.

    Raises:
        UserError: bad input; nothing has been written.
    """
    text = pin_sources(config.sources, config.out, "text")
    order_text = pin_optional(config.order_text, config.out, "order_text")
    asked_for_gates = config.gates
    config = replace(
        config,
        text=text,
        order_text=order_text,
        niches=_niches(config),
        proposals=_proposals(config),
        gate_text=gate_text(config),
    )
    teacher = checkpoint.load(config.teacher)
    if not teacher.widths.is_uniform:
        raise UserError(f"{config.teacher} is layer-wise: a teacher's blocks must be alike")
    length = sequence_length_of(config.sequence_length, teacher.config.block_size)
    limits, scoring = _limits(config, teacher), _scoring(config, teacher, length)
    latencies = _latencies(config, teacher, scoring) if config.cost == "latency" else None
    bins = _bins(config, teacher, length, latencies)

    def load(source: str, max_tokens: int | None = None) -> Text:
        return load_text(
            source,
            tokenizer=teacher.tokenizer,
            vocabulary=teacher.vocabulary,
            sequence_length=length,
            max_tokens=max_tokens,
            reading=config.reading,
        )

    fitness_text = load_mixture(load, config.sources, config.text_weights, config.max_tokens)
    ranking_text = load(config.order_text) if config.order_text else fitness_text
    for head_size in config.head_sizes or []:
        with_head_size(teacher.config, head_size)  # refuses what cannot be cut
    index = Order.by_index(teacher.architecture.dimensions)
    for bin in bins:  # refuses what cannot be reached
        for space in config.spaces:
            _space(config, teacher, limits, space, bin, index)
    config, gates = read_gate_blocks(config, load, fitness_text, optional=not asked_for_gates)
    rows, row_length = fitness_text.blocks.shape
    spread_out = spread(rows)
    stages = Stages.of(config.rung_settings, rows, max(1, config.shard_tokens // row_length))
    return SearchInputs(
        config=config,
        teacher=teacher,
        store=TeacherStore(teacher),
        length=length,
        limits=limits,
        scoring=scoring,
        latencies=latencies,
        bins=bins,
        text=fitness_text,
        order_text=ranking_text,
        blocks=fitness_text.blocks[spread_out],
        gate_blocks=gates,
        screening=Screening(
            stages, config.rung_settings, SequenceWeights(fitness_text.weights[spread_out])
        ),
        starts=_starts(config, teacher),
    )


def _niches(config: SearchConfig) -> Literal["layers"] | None:
    """The niches that a search keeps: those with which it was begun, where the user names none."""
    if config.niches is not None:
        return "layers" if config.niches == "layers" else None
    if (settled := read_settled(config.out)) is not None:
        return settled.get("niches")
    return "layers" if config.select is not None and config.algorithm == "evolution" else None


def _proposals(config: SearchConfig) -> int | None:
    """How many candidates are proposed for a place: as when the search was begun, where the user
    does not say."""
    if config.proposals is not None:
        return config.proposals
    if (settled := read_settled(config.out)) is not None:
        return settled.get("proposals")
    return PROPOSALS if config.algorithm == "evolution" and config.fitness not in PROXIES else None


def _limits(config: SearchConfig, teacher: Checkpoint) -> WidthLimits:
    network = teacher.config, teacher.widths
    try:
        if config.expressible_in == "export":
            portable_config(*network, tied=teacher.tied)
        elif config.expressible_in == "hf":
            native_config(*network, tied=teacher.tied)
            return replace(config.limits, whole_heads=wants_whole_heads(teacher.config))
    except UserError as error:
        remedy = "; --expressible-in litgpt searches all the same, for litgpt alone"
        raise UserError(f"--expressible-in {config.expressible_in}: {error}{remedy}") from error
    return config.limits


def _scoring(config: SearchConfig, teacher: Checkpoint, length: int) -> ScoringSettings:
    """How candidates are scored; the micro-batch as an earlier start may have found it."""
    scoring, divergence, latency = config.scoring, None, None
    if config.cost == "latency":
        latency = config.cost_length or min(length, LATENCY_LENGTH)
        if latency > length:
            raise UserError(
                f"--cost-length {latency} is beyond the sequences of {length} tokens: "
                "latency is measured within them"
            )
    if config.fitness == "kl":
        divergence = Divergence(teacher.vocabulary, config.kl_top_k)
    if scoring.micro_batch is None and (settled := read_settled(config.out)) is not None:
        scoring = replace(scoring, micro_batch=settled.get("micro_batch"))
    return replace(scoring, divergence=divergence, latency_length=latency)


def _latencies(config: SearchConfig, teacher: Checkpoint, scoring: ScoringSettings) -> Latencies:
    """What is known of this teacher's latencies: measured once, and kept with the run."""
    if (config.out / LATENCIES).is_file():
        return Latencies.load(config.out / LATENCIES)
    connect()
    logger.info("measuring the decode latency of some shapes of the teacher")
    return calibrate(teacher, scoring, config.gpus_per_worker)


def _bins(
    config: SearchConfig, teacher: Checkpoint, length: int, latencies: Latencies | None
) -> list[Bin]:
    architecture = teacher.architecture
    if latencies is not None:
        cost = Cost("latency", latencies.length, latencies.unit_costs(architecture))
        bins = [parse_bin(text, latencies.teacher, lambda _: None, cost) for text in config.bins]
    else:
        of_text = 0 if config.cost == "parameters" else config.cost_length or length
        cost = Cost(config.cost, of_text)
        size = cost.of(architecture, architecture.full_widths)
        bins = [
            parse_bin(text, size, lambda name: named_cost(name, cost), cost) for text in config.bins
        ]
    if len({(bin.low, bin.high) for bin in bins}) < len(bins):
        raise UserError(f"--bins {' '.join(config.bins)}: two of them are one bin")
    return bins


def _space(
    config: SearchConfig,
    teacher: Checkpoint,
    limits: WidthLimits,
    name: str,
    bin: Bin,
    order: Order,
) -> Space:
    inputs = name, teacher.architecture, order, bin, config.in_bin, limits
    if config.head_sizes is None:
        return Space(*inputs)
    return HeadSizeSpace(*inputs, head_sizes=config.head_sizes)


def _starts(config: SearchConfig, teacher: Checkpoint) -> list[Taken]:
    """What the searches begin with: taken from another run once, and kept in this one's."""
    if config.start_from is None:
        return []
    kept = config.out / warm_start.FILE
    if kept.is_file():
        return warm_start.load(kept)
    return warm_start.take(
        config.start_from,
        teacher.hash,
        config.budget.population,
        niches=config.niches is not None,
    )
