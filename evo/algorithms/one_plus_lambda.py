"""(1+lambda) search with level switches: every offspring differs from the single best by a few.

EvoPress: Accurate Dynamic Model Compression via Evolutionary Search (arXiv 2410.14649), section 3.
There a unit of the network is compressed to one of several levels, and a mutation raises one unit
by a level and lowers another, so that the size stays. The number of switches is the smaller of two
draws from 1 to 3. Here a level is what costs about as much as one query group; as our spaces have
more than per-layer levels, a switch is also between two dimensions of the whole network, and in
fine spaces between what is kept and what is dropped (as EvoPress switches blocks when it prunes
depth). Unlike there, the parent is not scored again: everything is compared on the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.algorithms.local_search import LocalSearch
from evo.genome.cost import Architecture, unit_costs
from evo.genome.fit_to_bin import Counts, WidthPlan
from evo.genome.operators.rank_genes import Genes
from evo.genome.subnet import Mask, Subnet
from evo.genome.width_limits import DIMENSIONS

MOST_SWITCHES = 3

Switch = Callable[[Genes, Architecture, Generator], Genes]


class OnePlusLambda(LocalSearch):
    """After a random first generation, offspring of the single best candidate by level switches."""

    operator = "switch"

    def _child(self, parent: Subnet) -> Subnet:
        return self.space.varied(parent, switched, self.rng)


def switched(
    genes: Genes, architecture: Architecture, rng: Generator, *, fine: bool, uniform: bool
) -> Genes:
    """One to three level switches, few more often than many.

    Args:
        genes: of the parent.
        architecture: of the teacher.
        rng: draws how many switches, and which.
        fine: also switch kept with dropped layers, channels, groups or neurons.
        uniform: all layers stay alike, so no width moves between them.
    """
    kinds: list[Switch] = [_between_dimensions]
    if not uniform:
        kinds.append(_between_layers)
    if fine:
        kinds.append(_kept_with_dropped)
    for _ in range(rng.integers(1, MOST_SWITCHES, 2, endpoint=True).min()):
        genes = kinds[rng.integers(len(kinds))](genes, architecture, rng)
    return genes


def levels(architecture: Architecture, plan: WidthPlan) -> dict[str, int]:
    """How much of each dimension a level is: about the cost of one query group, but at least one.

    Groups and neurons are of one layer. Channels run through all of them: a level of channels costs
    what a group in every kept layer does.
    """
    groups, neurons = int(plan.groups[plan.kept].sum()), int(plan.neurons[plan.kept].sum())
    unit = unit_costs(architecture, plan.channels)
    wider = unit_costs(architecture, plan.channels + 1)
    channel = wider.total(plan.layers, groups, neurons) - unit.total(plan.layers, groups, neurons)
    return {
        "layers": 1,
        "channels": max(1, round(plan.layers * unit.group / channel)),
        "groups": 1,
        "neurons": max(1, round(unit.group / unit.neuron)),
    }


def _between_layers(genes: Genes, architecture: Architecture, rng: Generator) -> Genes:
    """One layer gives up to a level of its groups or of its neurons to another."""
    plan = genes.plan
    name = ("groups", "neurons")[rng.integers(2)]
    counts: Counts = getattr(plan, name).copy()
    most = getattr(architecture.dimensions, name)
    kept = np.flatnonzero(plan.kept)
    givers = kept[counts[kept] > 1]
    takers = kept[counts[kept] < most]
    if not len(givers) or not len(takers):
        return genes
    giver, taker = rng.choice(givers), rng.choice(takers)
    level = min(levels(architecture, plan)[name], counts[giver] - 1, most - counts[taker])
    counts[giver] -= level
    counts[taker] += level
    changed: dict[str, Any] = {name: counts}
    return replace(genes, plan=replace(plan, **changed))


def _between_dimensions(genes: Genes, architecture: Architecture, rng: Generator) -> Genes:
    """One dimension of the network gives a level, of groups and neurons one in every layer."""
    taker, giver = (DIMENSIONS[index] for index in rng.choice(len(DIMENSIONS), 2, replace=False))
    plan, full = genes.plan, architecture.dimensions
    level = levels(architecture, plan)
    lowest = {"channels": min(architecture.head_size, full.channels)}
    changed: dict[str, Any] = {
        name: np.clip(
            getattr(plan, name) + sign * level[name], lowest.get(name, 1), getattr(full, name)
        )
        for name, sign in ((taker, 1), (giver, -1))
    }
    changed |= {name: int(changed[name]) for name in ("layers", "channels") if name in changed}
    return replace(genes, plan=replace(plan, **changed))


def _kept_with_dropped(genes: Genes, architecture: Architecture, rng: Generator) -> Genes:
    """Up to a level of a dimension's kept ones change places with dropped ones, in one layer."""
    plan = genes.plan
    name = DIMENSIONS[rng.integers(len(DIMENSIONS))]
    level = levels(architecture, plan)[name]
    if name == "layers":
        depth = _exchanged(plan.depth, plan.kept, level, rng)
        return replace(genes, plan=replace(plan, depth=depth))
    keys: dict[str, Any] = {name: getattr(genes, name).copy()}
    rows = keys[name].reshape(-1, keys[name].shape[-1])
    row = rows[rng.choice(np.flatnonzero(plan.kept)) if len(rows) > 1 else 0]
    row[:] = _exchanged(row, row < 1, level, rng)
    return replace(genes, **keys)


def _exchanged(values: NDArray[Any], kept: Mask, most: int, rng: Generator) -> NDArray[Any]:
    """Values of which up to `most` kept ones have changed places with as many dropped ones."""
    values, inside, outside = values.copy(), np.flatnonzero(kept), np.flatnonzero(~kept)
    count = min(most, len(inside), len(outside))
    first = rng.choice(inside, count, replace=False)
    second = rng.choice(outside, count, replace=False)
    values[first], values[second] = values[second], values[first]
    return values
