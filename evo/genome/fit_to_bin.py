"""Move the widths of a proposal, by the smallest change, until its cost lies in a bin.

Rejection sampling keeps 1 of 25 to 1 of 1000 proposals in a bin of 5%; fitting keeps all. Cost is
affine in the channels, and in the sums of groups and of neurons over the kept layers, so the
change that a dimension needs is solved for, not searched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.genome.bins import Bin
from evo.genome.cost import Architecture, Cost
from evo.genome.width_limits import NO_LIMITS, WidthGrid, WidthLimits

Counts = NDArray[np.int64]
ATTEMPTS = 50


@dataclass(frozen=True)
class WidthPlan:
    """How many of each are to be kept, before it is said which.

    Attributes:
        layers: kept layers, n.
        channels: kept channels.
        groups: kept groups of every layer, dropped ones included, shape [L].
        neurons: kept neurons of every layer, shape [L].
        depth: the position of each layer in the order in which layers are kept, shape [L]: the
            kept ones are those with a position below n.
    """

    layers: int
    channels: int
    groups: Counts
    neurons: Counts
    depth: Counts

    @property
    def kept(self) -> NDArray[np.bool_]:
        """The kept layers, shape [L]."""
        return self.depth < self.layers


def cost_of(architecture: Architecture, cost: Cost, plan: WidthPlan) -> int:
    """What a plan costs."""
    unit, kept = cost.unit_costs(architecture, plan.channels), plan.kept
    return unit.total(plan.layers, int(plan.groups[kept].sum()), int(plan.neurons[kept].sum()))


def on_grid(plan: WidthPlan, grid: WidthGrid, rng: Generator, *, uniform: bool) -> WidthPlan:
    """The plan with each width at one of the two that are allowed next to it, the nearer the
    likelier, so that small steps are not lost. What is allowed stays as it is; layers that are
    alike (`uniform`) stay alike."""

    def near(values: Any, allowed: range) -> Any:
        if allowed.step == 1:
            return np.clip(values, allowed.start, allowed[-1])
        steps = (np.asarray(values) - allowed.start) / allowed.step
        chance = rng.random(() if uniform else steps.shape)
        steps = np.floor(steps + chance).astype(np.int64)
        return allowed.start + allowed.step * np.clip(steps, 0, len(allowed) - 1)

    layers = int(near(plan.layers, grid.layers))
    channels = int(near(plan.channels, grid.channels))
    return replace(
        plan,
        layers=layers,
        channels=channels,
        groups=np.minimum(near(plan.groups, grid.groups), grid.groups_beside(channels)),
        neurons=near(plan.neurons, grid.neurons),
    )


def fit(
    architecture: Architecture,
    bin: Bin,
    plan: WidthPlan,
    rng: Generator,
    *,
    uniform: bool,
    limits: WidthLimits = NO_LIMITS,
) -> WidthPlan | None:
    """A plan in the bin, near the given one.

    One dimension, drawn among those that can reach the bin alone, moves by the least that lands in
    it. Where none can, one of them moves part of the way, and so on. `rng` breaks ties; where
    `uniform`, all layers change alike.

    Returns:
        None where no way into the bin was found, as may be in a bin that few shapes are in.
    """
    grid = limits.grid(architecture)
    plan = on_grid(plan, grid, rng, uniform=uniform)
    for _ in range(ATTEMPTS):
        now = cost_of(architecture, bin.cost, plan)
        if now in bin:
            return plan
        moves = _moves(architecture, bin, grid, plan, now, uniform)
        landing = [move for move in moves if move.target is not None]
        if landing:
            move = landing[rng.integers(len(landing))]
            assert move.target is not None
            return _moved(plan, grid, move, move.target, rng, uniform)
        up = now < bin.low
        partial = [move for move in moves if move.counts and move.room(up)]
        if not partial:
            return None
        move = partial[rng.integers(len(partial))]
        steps = int(rng.integers(1, max(1, move.room(up) // 4) + 1))
        value = move.value + (steps if up else -steps)
        plan = _moved(plan, grid, move, value, rng, uniform)
    return None


@dataclass(frozen=True)
class _Move:
    """What changing one dimension of a plan, and no other, can do.

    A dimension is counted in steps of the grid above its least width; where layers may differ,
    those of groups and of neurons are summed over the kept layers.

    Attributes:
        name: of the dimension.
        value: where it is.
        first: the least there can be.
        last: the most.
        counts: whether a step changes the cost.
        target: the value nearest to the present one whose cost is in the bin, if there is one.
    """

    name: str
    value: int
    first: int
    last: int
    counts: bool
    target: int | None

    def room(self, up: bool) -> int:
        """How many steps are left in a direction."""
        return self.last - self.value if up else self.value - self.first


def _moves(
    architecture: Architecture, bin: Bin, grid: WidthGrid, plan: WidthPlan, now: int, uniform: bool
) -> list[_Move]:
    unit, kept = bin.cost.unit_costs(architecture, plan.channels), plan.kept
    wider = replace(plan, channels=plan.channels + grid.channels.step)
    per_channel = cost_of(architecture, bin.cost, wider) - now
    at = grid.channels.index(plan.channels)
    least = grid.channels.index(grid.channels_beside(int(plan.groups.max())))
    moves = [
        _layers_move(bin, grid, plan, unit),
        _affine_move(bin, now, "channels", at, least, len(grid.channels) - 1, per_channel),
    ]
    for name, of_one in (("groups", unit.group), ("neurons", unit.neuron)):
        allowed = _widths(grid, name, plan)
        steps = (getattr(plan, name)[kept] - allowed.start) // allowed.step
        value, ways = (int(steps[0]), 1) if uniform else (int(steps.sum()), plan.layers)
        each = of_one * allowed.step * (plan.layers if uniform else 1)
        moves.append(_affine_move(bin, now, name, value, 0, ways * (len(allowed) - 1), each))
    return moves


def _widths(grid: WidthGrid, name: str, plan: WidthPlan) -> range:
    """The groups or neurons that a layer may have beside the channels there are."""
    if name == "neurons":
        return grid.neurons
    return range(grid.groups.start, grid.groups_beside(plan.channels) + 1, grid.groups.step)


def _layers_move(bin: Bin, grid: WidthGrid, plan: WidthPlan, unit: Any) -> _Move:
    by_depth = np.argsort(plan.depth)
    layers = np.arange(1, by_depth.size + 1)
    costs = unit.total(layers, plan.groups[by_depth].cumsum(), plan.neurons[by_depth].cumsum())
    costs = costs[np.array(grid.layers) - 1]
    value = grid.layers.index(plan.layers)
    inside = np.flatnonzero((costs >= bin.low) & (costs <= bin.high))
    target = int(inside[np.abs(inside - value).argmin()]) if inside.size else None
    return _Move("layers", value, 0, len(grid.layers) - 1, True, target)


def _affine_move(
    bin: Bin, now: int, name: str, value: int, first: int, last: int, step: int
) -> _Move:
    target = None
    if step:
        rest = now - step * value
        least, most = max(first, -(-(bin.low - rest) // step)), min(last, (bin.high - rest) // step)
        target = min(max(value, least), most) if least <= most else None
    return _Move(name, value, first, last, step > 0, target)


def _moved(
    plan: WidthPlan, grid: WidthGrid, move: _Move, value: int, rng: Generator, uniform: bool
) -> WidthPlan:
    """The plan with the dimension of a move at another value."""
    allowed: range = getattr(grid, move.name)
    if move.name == "layers":
        return replace(plan, layers=allowed[value])
    if move.name == "channels":
        return replace(plan, channels=allowed[value])
    allowed = _widths(grid, move.name, plan)
    width: Any
    if uniform:
        width = np.full_like(plan.depth, allowed[value])
    else:
        width = getattr(plan, move.name).copy()
        kept = np.flatnonzero(plan.kept)
        steps = (width[kept] - allowed.start) // allowed.step
        change = value - move.value
        free = len(allowed) - 1 - steps if change > 0 else steps
        moved = rng.multivariate_hypergeometric(free, abs(change), method="marginals")
        width[kept] += np.sign(change) * moved * allowed.step
    return replace(plan, **{move.name: width})
