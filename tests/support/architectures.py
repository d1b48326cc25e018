"""Small architectures in numbers only, and what it means to be in a space. No torch here."""

from __future__ import annotations

import numpy as np

from evo.genome.bins import Bin
from evo.genome.cost import PARAMETERS, Architecture, Cost, parameters
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet

NEOX = Architecture(
    dimensions=Dimensions(layers=4, channels=32, groups=4, neurons=40),
    vocabulary=50,
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
GROUPED = Architecture(
    dimensions=Dimensions(layers=5, channels=48, groups=3, neurons=64),
    vocabulary=50,
    head_size=8,
    queries_per_group=2,
    mlp_matrices=3,
    bias=False,
    attention_bias=True,
    head_bias=False,
    tied=True,
    norm_parameters=1,
    norms_per_block=2,
    query_key_norm="head",
)
NORM_OVER_HEADS = Architecture(
    dimensions=Dimensions(layers=3, channels=20, groups=6, neurons=30),
    vocabulary=30,
    head_size=4,
    queries_per_group=1,
    mlp_matrices=3,
    bias=False,
    attention_bias=False,
    head_bias=False,
    tied=False,
    norm_parameters=1,
    norms_per_block=2,
    query_key_norm="heads",
)
COSTS = (PARAMETERS, Cost("flops", 64), Cost("kv-cache", 64))
ARCHITECTURES = {"neox": NEOX, "grouped": GROUPED, "norm-over-heads": NORM_OVER_HEADS}


def full_cost(architecture: Architecture) -> int:
    """The teacher's parameters."""
    return parameters(architecture, architecture.full_widths)


def share(architecture: Architecture, low: float, high: float, cost: Cost = PARAMETERS) -> Bin:
    """A bin from one share of the teacher's cost to another."""
    full = cost.of(architecture, architecture.full_widths)
    return Bin(f"{low}-{high}", round(low * full), round(high * full), cost)


def any_cost(architecture: Architecture) -> Bin:
    """The bin of all subnets."""
    return Bin("any", 1, full_cost(architecture))


def random_order(dimensions: Dimensions, seed: int = 0) -> Order:
    """Ranks without any rhyme."""
    rng, d = np.random.default_rng(seed), dimensions
    return Order.by_importance(
        layers=rng.random(d.layers),
        channels=rng.random(d.channels),
        groups=rng.random((d.layers, d.groups)),
        neurons=rng.random((d.layers, d.neurons)),
    )


def ranks(mask: np.ndarray, rank: np.ndarray) -> frozenset[int]:
    """The ranks of what is kept."""
    return frozenset(rank[mask].tolist())


def is_member(space: Space, subnet: Subnet) -> bool:
    """Whether a subnet is in a space and its bin, from the definition."""
    architecture, order = space.architecture, space.order
    kept = np.flatnonzero(subnet.layers)
    groups = [ranks(subnet.groups[i], order.groups[i]) for i in kept]
    neurons = [ranks(subnet.neurons[i], order.neurons[i]) for i in kept]
    if space.bin.cost.of(architecture, subnet.widths) not in space.bin:
        return False
    if subnet.channels.sum() < min(architecture.head_size, subnet.channels.size):
        return False
    widths = subnet.widths
    counts = {
        "layers": [widths.layers],
        "channels": [widths.channels],
        "groups": widths.groups,
        "neurons": widths.neurons,
    }
    for name, values in counts.items():
        multiple, floor = (
            getattr(one, name) for one in (space.limits.multiple_of, space.limits.floors)
        )
        if any(value % multiple or value < floor for value in values):
            return False
    size = architecture.head_size
    if space.limits.whole_heads and (
        widths.channels % size
        or max(widths.groups) * architecture.queries_per_group * size > widths.channels
    ):
        return False
    if "uniform" in space.name and (len(set(groups)) > 1 or len(set(neurons)) > 1):
        return False
    chosen = [
        ranks(subnet.layers, order.layers),
        ranks(subnet.channels, order.channels),
        *groups,
        *neurons,
    ]
    return "fine" in space.name or all(one == set(range(len(one))) for one in chosen)
