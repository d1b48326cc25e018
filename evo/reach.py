"""Which shapes of a teacher lie in a bin: how many, one of them at random, or what is nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.bins import Bin
from evo.cost import Architecture, parameters, prices
from evo.errors import UserError
from evo.fit import Counts, Plan
from evo.subnet import Widths


@dataclass(frozen=True)
class Reach:
    """What the networks of a teacher can cost.

    Attributes:
        inside: how many shapes (layers, channels, groups, neurons) lie in the bin.
        below: the largest cost below the bin, if there is one.
        above: the smallest cost above the bin, if there is one.
    """

    inside: int
    below: int | None
    above: int | None


def reach(architecture: Architecture, bin: Bin, *, uniform: bool) -> Reach:
    """Count the shapes whose cost is in a bin, and name the nearest costs outside.

    Args:
        architecture: of the teacher.
        bin: the range of costs.
        uniform: all layers alike; else the counts are of the sums over layers.
    """
    inside = 0
    below: list[int] = []
    above: list[int] = []
    for grid in _grids(architecture, bin, uniform):
        inside += int(grid.inside.sum())
        low, high = grid.neurons
        under = (grid.rest + grid.step * np.minimum(grid.first - 1, high))[grid.first > low]
        over = (grid.rest + grid.step * np.maximum(grid.last + 1, low))[grid.last < high]
        below += [int(under.max())] if under.size else []
        above += [int(over.min())] if over.size else []
    return Reach(inside, max(below, default=None), min(above, default=None))


def check_reachable(architecture: Architecture, bin: Bin, *, uniform: bool) -> None:
    """Refuse a bin that no subnet of the teacher can be in.

    Raises:
        UserError: naming the range that can be reached, and the nearest costs within it.
    """
    found = reach(architecture, bin, uniform=True)
    if not found.inside and not uniform:
        found = reach(architecture, bin, uniform=False)
    if found.inside:
        return
    least = smallest(architecture)
    most = parameters(architecture, architecture.full_widths)
    near = ""
    if found.below is not None and found.above is not None:
        near = f", the nearest {found.below:,} and {found.above:,}"
    raise UserError(
        f"no subnet of this teacher is in the bin {bin}: they have from {least:,} to {most:,} "
        f"parameters{near}"
    )


def smallest(architecture: Architecture) -> int:
    """The parameters of the smallest subnet: one layer, one head's worth of channels."""
    channels = min(architecture.head_size, architecture.dimensions.channels)
    return parameters(architecture, Widths(channels, (1,), (1,)))


def drawn(
    architecture: Architecture, bin: Bin, plan: Plan, rng: Generator, *, uniform: bool
) -> Plan:
    """A plan in the bin that owes nothing to the given one but the order of its layers.

    All shapes in the bin are equally likely; where layers may differ, all sums over layers are.
    Slower than `fit`, but it always finds one.

    Raises:
        ValueError: no shape lies in the bin.
    """
    counts = np.array([int(grid.inside.sum()) for grid in _grids(architecture, bin, uniform)])
    n = int(rng.choice(counts.size, p=counts / counts.sum())) + 1
    grid = next(one for one in _grids(architecture, bin, uniform) if one.layers == n)
    cells = grid.inside.ravel()
    cell = rng.choice(cells.size, p=cells / cells.sum())
    row, column = np.unravel_index(cell, grid.inside.shape)
    full = architecture.dimensions
    groups = int(grid.groups[row, 0])
    neurons = int(rng.integers(grid.first[row, column], grid.last[row, column], endpoint=True))
    plan = replace(plan, layers=n, channels=int(grid.channels[column]))
    if uniform:
        every = np.ones(full.layers, np.int64)
        return replace(plan, groups=groups * every, neurons=neurons * every)
    return replace(
        plan,
        groups=_spread(plan.groups, plan.kept, groups, full.groups, rng),
        neurons=_spread(plan.neurons, plan.kept, neurons, full.neurons, rng),
    )


def _spread(
    counts: Counts, kept: NDArray[np.bool_], total: int, most: int, rng: Generator
) -> Counts:
    """Counts whose sum over the kept layers is the total, each from 1 to `most`."""
    counts, layers = counts.copy(), int(kept.sum())
    counts[kept] = 1 + rng.multivariate_hypergeometric(
        [most - 1] * layers, total - layers, method="marginals"
    )
    return counts


@dataclass(frozen=True)
class _Grid:
    """All shapes of one number of layers. Groups and neurons are of one layer where all are alike,
    else sums over the layers.

    Attributes:
        layers: how many.
        channels: residual widths, shape [C].
        groups: shape [G, 1].
        neurons: the fewest and the most.
        rest: cost without neurons, shape [G, C].
        step: cost of one more of `neurons`, shape [C].
        first: the fewest neurons whose cost is not below the bin, shape [G, C].
        last: the most neurons whose cost is not above the bin, shape [G, C].
    """

    layers: int
    channels: Counts
    groups: Counts
    neurons: tuple[int, int]
    rest: Counts
    step: Counts
    first: Counts
    last: Counts

    @property
    def inside(self) -> Counts:
        """How many numbers of neurons land in the bin, shape [G, C]."""
        return np.maximum(self.last - self.first + 1, 0)


def _grids(architecture: Architecture, bin: Bin, uniform: bool) -> Iterator[_Grid]:
    full = architecture.dimensions
    channels = np.arange(min(architecture.head_size, full.channels), full.channels + 1)
    price = prices(architecture, channels)
    for n in range(1, full.layers + 1):
        many = n if uniform else 1  # layers that a step of groups or of neurons changes
        groups = np.arange(n // many, full.groups * n // many + 1)[:, None]
        rest = price.base + price.layer * n + price.group * many * groups
        step = price.neuron * many
        low, high = n // many, full.neurons * n // many
        first = np.maximum(low, -(-(bin.low - rest) // step))
        last = np.minimum(high, (bin.high - rest) // step)
        yield _Grid(n, channels, groups, (low, high), rest, step, first, last)
