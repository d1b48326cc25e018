"""Searches whose fitness is a formula of the shape, run by the search's own parts, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget
from evo.genome.bins import Bin
from evo.genome.cost import Architecture, parameters
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet
from evo.search.generation import Screening
from evo.search.history.history import History
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.search.shard_score import ShardScore

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
    rungs = Rungs()
    history = History(directory)
    screening = Screening(Stages.of(rungs, 1, 1), rungs, SequenceWeights.equal(1))
    search = Search(f"{space}@{bin.name}", strategy, history, screening)
    numbers = count()

    def score(subnet: Subnet, _: int) -> ShardScore:
        if failing and not next(numbers) % 3:
            return ShardScore.failed(failing, 0.5)
        return ShardScore((fitness(subnet) * TOKENS,), TOKENS, 0.5)

    while not search.ended and strategy.generation != stop_after:
        score_generation(search, score)
    history.flush()
    return history


def score_generation(search: Search, score: Callable[[Subnet, int], ShardScore]) -> None:
    """Ask, score unit by unit through all stages, tell."""
    queue = search.begin_generation() + search.advance()
    while queue:
        search.take({(each.subnet.id, shard): score(each.subnet, shard) for each, shard in queue})
        queue = search.advance()
    if search.complete:
        search.end_generation()
