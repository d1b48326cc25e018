"""Searches whose fitness is a formula of the shape, run by the search's own parts, without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evo.bins import Bin
from evo.cost import Architecture, parameters
from evo.evolution import Evolution
from evo.history import History, Shard
from evo.lane import Lane
from evo.order import Order
from evo.space import Space
from evo.strategy import Budget
from evo.subnet import Dimensions, Subnet

DIMENSIONS = Dimensions(layers=6, channels=64, groups=8, neurons=128)
ARCHITECTURE = Architecture(
    dimensions=DIMENSIONS,
    vocabulary=256,
    head_size=8,
    queries_per_group=1,
    mlp_matrices=2,
    bias=True,
    attention_bias=True,
    head_bias=False,
    tied=False,
    norm_parameters=2,
    norms_per_block=2,
)
TOKENS = 100


def fitness(subnet: Subnet) -> float:
    """In nats per token, the lower the more is kept."""
    widths = subnet.widths
    shares = (
        widths.layers / DIMENSIONS.layers,
        widths.channels / DIMENSIONS.channels,
        sum(widths.groups) / (widths.layers * DIMENSIONS.groups),
        sum(widths.neurons) / (widths.layers * DIMENSIONS.neurons),
    )
    return 2.0 + float(sum((1 - share) ** 2 for share in shares))


def evolve(
    directory: Path,
    space: str = "coarse-uniform",
    share: int = 50,
    *,
    generations: int = 4,
    stop_after: int | None = None,
    failing: str | None = None,
) -> History:
    """Run a search of eight candidates a generation.

    Args:
        directory: of the search.
        space: one of the four.
        share: of the teacher's parameters, in percent.
        generations: after the first.
        stop_after: stop when so many have ended.
        failing: why every third candidate of a generation fails; by default none does.
    """
    size = parameters(ARCHITECTURE, ARCHITECTURE.full_widths)
    bin = Bin(f"{share}%", int(size * share * 0.0095), int(size * share * 0.0105))
    order = Order.by_index(DIMENSIONS)
    strategy = Evolution(Space(space, ARCHITECTURE, order, bin), Budget(8, generations), [1])
    lane = Lane(f"{space}@{bin.name}", strategy, History(directory), 1)
    while not lane.ended and strategy.generation != stop_after:
        lane.take(
            [
                Shard(one.subnet.id, shard, np.nan, TOKENS, 0.5, failing)
                if failing and not index % 3
                else Shard(one.subnet.id, shard, fitness(one.subnet) * TOKENS, TOKENS, 0.5)
                for index, (one, shard) in enumerate(lane.begin_generation())
            ]
        )
        lane.end_generation()
    return lane.history
