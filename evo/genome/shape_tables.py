"""Which shapes of a teacher lie in a bin: how many, one of them at random, or what is nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.errors import UserError
from evo.genome.bins import Bin
from evo.genome.cost import Architecture, Cost
from evo.genome.fit_to_bin import Counts, WidthPlan
from evo.genome.width_limits import NO_LIMITS, WidthLimits


@dataclass(frozen=True)
class BinShapes:
    """What the networks of a teacher can cost.

    Attributes:
        inside: how many shapes (layers, channels, groups, neurons) lie in the bin.
        below: the largest cost below the bin, if there is one.
        above: the smallest cost above the bin, if there is one.
    """

    inside: int
    below: int | None
    above: int | None


def count_shapes(
    architecture: Architecture, bin: Bin, *, uniform: bool, limits: WidthLimits = NO_LIMITS
) -> BinShapes:
    """Count the shapes whose cost is in a bin, and name the nearest costs outside.

    Where layers may differ, the counts are of the sums over layers.
    """
    inside = 0
    below: list[int] = []
    above: list[int] = []
    for table in _tables(architecture, bin, limits, uniform):
        inside += int(table.inside.sum())
        most = len(table.neurons) - 1
        under = (table.rest + table.step * (table.first - 1))[table.allowed & (table.first > 0)]
        over = (table.rest + table.step * (table.last + 1))[table.allowed & (table.last < most)]
        below += [int(under.max())] if under.size else []
        above += [int(over.min())] if over.size else []
    return BinShapes(inside, max(below, default=None), min(above, default=None))


def depths(
    architecture: Architecture, bin: Bin, *, uniform: bool, limits: WidthLimits = NO_LIMITS
) -> set[int]:
    """The numbers of layers with which some shape lies in a bin."""
    tables = _tables(architecture, bin, limits, uniform)
    return {table.layers for table in tables if table.inside.any()}


def check_reachable(
    architecture: Architecture, bin: Bin, *, uniform: bool, limits: WidthLimits = NO_LIMITS
) -> None:
    """Refuse a bin that no subnet of the teacher can be in.

    Raises:
        UserError: naming the range that can be reached, and the nearest costs within it.
    """
    found = count_shapes(architecture, bin, uniform=True, limits=limits)
    if not found.inside and not uniform:
        found = count_shapes(architecture, bin, uniform=False, limits=limits)
    if found.inside:
        return
    least, most = (_extreme(architecture, bin.cost, limits, end) for end in (0, -1))
    near, shown = "", bin.cost.shown
    if found.below is not None and found.above is not None:
        near = f", the nearest {shown(found.below)} and {shown(found.above)}"
    within = "" if limits == NO_LIMITS else " within --multiple-of and --floors"
    within += " that is --expressible-in hf" if limits.whole_heads else ""
    raise UserError(
        f"no subnet of this teacher{within} is in the bin {bin}: they have from {shown(least)} to "
        f"{shown(most)} {bin.cost.unit}{near}"
    )


def _extreme(architecture: Architecture, cost: Cost, limits: WidthLimits, end: int) -> int:
    """The cost of the smallest shape (end 0), or of the largest (-1)."""
    grid = limits.grid(architecture)
    layers = grid.layers[end]
    return cost.unit_costs(architecture, grid.channels[end]).total(
        layers, layers * grid.groups[end], layers * grid.neurons[end]
    )


def drawn(
    architecture: Architecture,
    bin: Bin,
    plan: WidthPlan,
    rng: Generator,
    *,
    uniform: bool,
    limits: WidthLimits = NO_LIMITS,
) -> WidthPlan:
    """A plan in the bin that owes nothing to the given one but the order of its layers.

    All shapes in the bin are equally likely; where layers may differ, all sums over layers are.
    Slower than `fit`, but it always finds one.

    Raises:
        ValueError: no shape lies in the bin.
    """
    counts = [int(table.inside.sum()) for table in _tables(architecture, bin, limits, uniform)]
    which = int(rng.choice(len(counts), p=np.array(counts) / sum(counts)))
    table = next(islice(_tables(architecture, bin, limits, uniform), which, None))
    cells = table.inside.ravel()
    cell = rng.choice(cells.size, p=cells / cells.sum())
    row, column = np.unravel_index(cell, table.inside.shape)
    groups = int(row)
    neurons = int(rng.integers(table.first[row, column], table.last[row, column], endpoint=True))
    grid = limits.grid(architecture)
    plan = replace(plan, layers=table.layers, channels=grid.channels[int(column)])
    if uniform:
        widths = grid.groups[groups], grid.neurons[neurons]
        every = np.ones(architecture.dimensions.layers, np.int64)
        return replace(plan, groups=widths[0] * every, neurons=widths[1] * every)
    return replace(
        plan,
        groups=_spread(plan.groups, plan.kept, groups, grid.groups, rng),
        neurons=_spread(plan.neurons, plan.kept, neurons, grid.neurons, rng),
    )


def _spread(
    counts: Counts, kept: NDArray[np.bool_], steps: int, allowed: range, rng: Generator
) -> Counts:
    """Counts that, over the kept layers, are so many steps in all above the least."""
    counts, layers = counts.copy(), int(kept.sum())
    own = rng.multivariate_hypergeometric([len(allowed) - 1] * layers, steps, method="marginals")
    counts[kept] = allowed.start + allowed.step * own
    return counts


@dataclass(frozen=True)
class _Table:
    """All shapes of one number of layers. Groups and neurons are of one layer where all are alike,
    else sums over the layers; both are counted in steps of the grid above their least.

    Attributes:
        layers: how many.
        neurons: the steps of neurons there are.
        rest: cost with the fewest neurons, shape [G, C]: by steps of groups and of channels.
        step: cost of one more of `neurons`, shape [C]; may be zero.
        first: the fewest neurons whose cost is not below the bin, shape [G, C]; one more than
            there are where there is none.
        last: the most neurons whose cost is not above the bin, shape [G, C]; -1 where there is
            none.
        allowed: whether there may be so many groups beside so many channels, shape [G, C].
    """

    layers: int
    neurons: range
    rest: Counts
    step: Counts
    first: Counts
    last: Counts
    allowed: NDArray[np.bool_]

    @property
    def inside(self) -> Counts:
        """How many numbers of neurons land in the bin, shape [G, C]."""
        return np.maximum(self.last - self.first + 1, 0) * self.allowed


def _tables(
    architecture: Architecture, bin: Bin, limits: WidthLimits, uniform: bool
) -> Iterator[_Table]:
    grid = limits.grid(architecture)
    channels = np.array(grid.channels)
    unit = bin.cost.unit_costs(architecture, channels)
    for n in grid.layers:
        alike, ways = (n, 1) if uniform else (1, n)  # layers that a step changes; steps that add up
        groups = np.arange(ways * (len(grid.groups) - 1) + 1)[:, None]
        neurons = range(ways * (len(grid.neurons) - 1) + 1)
        least = unit.total(n, n * grid.groups.start, n * grid.neurons.start)
        rest = least + unit.group * alike * grid.groups.step * groups
        rest = np.broadcast_to(rest, (len(groups), len(grid.channels)))
        step = np.broadcast_to(unit.neuron * alike * grid.neurons.step, rest.shape[1:])
        most, divisor = len(neurons) - 1, np.maximum(step, 1)
        first, last = -(-(bin.low - rest) // divisor), (bin.high - rest) // divisor
        first = np.where(step > 0, first.clip(0, most + 1), (most + 1) * (rest < bin.low))
        last = np.where(step > 0, last.clip(-1, most), np.where(rest > bin.high, -1, most))
        widest = n * grid.groups_beside(channels) // alike  # where layers may differ, of their sums
        allowed = ways * grid.groups.start + grid.groups.step * groups <= widest
        yield _Table(n, neurons, rest, step, first, last, allowed)
