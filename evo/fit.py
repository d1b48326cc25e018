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

from evo.bins import Bin
from evo.cost import Architecture, prices

Counts = NDArray[np.int64]
DIMENSIONS = ("layers", "channels", "groups", "neurons")
ATTEMPTS = 50


@dataclass(frozen=True)
class Plan:
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


def cost(architecture: Architecture, plan: Plan) -> int:
    """The parameters of a plan."""
    price, kept = prices(architecture, plan.channels), plan.kept
    return price.total(plan.layers, int(plan.groups[kept].sum()), int(plan.neurons[kept].sum()))


def fit(
    architecture: Architecture, bin: Bin, plan: Plan, rng: Generator, *, uniform: bool
) -> Plan | None:
    """A plan in the bin, near the given one.

    One dimension, drawn among those that can reach the bin alone, moves by the least that lands
    in it. Where none can, one of them moves part of the way, and so on.

    Args:
        architecture: of the teacher.
        bin: where the cost must lie.
        plan: where to start.
        rng: breaks ties.
        uniform: whether all layers change alike.

    Returns:
        None where no way into the bin was found, as may be in a bin that few shapes are in.
    """
    for _ in range(ATTEMPTS):
        now = cost(architecture, plan)
        if now in bin:
            return plan
        moves = [_Move(architecture, bin, plan, name, uniform) for name in DIMENSIONS]
        landing = [move for move in moves if move.target is not None]
        if landing:
            return landing[rng.integers(len(landing))].apply(rng)
        up = now < bin.low
        partial = [move for move in moves if move.room(up)]
        if not partial:
            return None
        plan = partial[rng.integers(len(partial))].apply_part(up, rng)
    return None


class _Move:
    """What changing one dimension of a plan, and no other, can do.

    A dimension is counted in steps: layers, channels, groups or neurons; where all layers change
    alike, a step of groups or neurons is one in every layer.
    """

    def __init__(
        self, architecture: Architecture, bin: Bin, plan: Plan, name: str, uniform: bool
    ) -> None:
        self.architecture, self.bin, self.plan = architecture, bin, plan
        self.name, self.uniform = name, uniform
        full, kept = architecture.dimensions, plan.kept
        price = prices(architecture, plan.channels)
        if name == "layers":
            self.value, self.low, self.high = plan.layers, 1, full.layers
        elif name == "channels":
            self.value, self.low, self.high = plan.channels, architecture.head_size, full.channels
            self.low = min(self.low, self.high)
        else:
            counts = (plan.groups if name == "groups" else plan.neurons)[kept]
            most = full.groups if name == "groups" else full.neurons
            steps = 1 if uniform else len(counts)
            self.value = int(counts[0] if uniform else counts.sum())
            self.low, self.high = steps, steps * most
            self.step = (price.group if name == "groups" else price.neuron) * (
                len(counts) if uniform else 1
            )
        self.target = self._landing()

    def _landing(self) -> int | None:
        """The value nearest to the present one whose cost is in the bin, if there is one."""
        bin, plan = self.bin, self.plan
        if self.name == "layers":
            inside = [
                n
                for n in range(self.low, self.high + 1)
                if cost(self.architecture, replace(plan, layers=n)) in bin
            ]
            return min(inside, key=lambda n: abs(n - self.value), default=None)
        now = cost(self.architecture, plan)
        if self.name == "channels":
            step = cost(self.architecture, replace(plan, channels=plan.channels + 1)) - now
        else:
            step = self.step
        rest = now - step * self.value
        first = max(self.low, -(-(bin.low - rest) // step))
        last = min(self.high, (bin.high - rest) // step)
        return min(max(self.value, first), last) if first <= last else None

    def room(self, up: bool) -> int:
        """How many steps are left in a direction."""
        return self.high - self.value if up else self.value - self.low

    def apply(self, rng: Generator) -> Plan:
        """The plan with the dimension at its target."""
        assert self.target is not None
        return self._at(self.target, rng)

    def apply_part(self, up: bool, rng: Generator) -> Plan:
        """The plan with the dimension moved by up to a quarter of its room."""
        steps = int(rng.integers(1, max(1, self.room(up) // 4) + 1))
        return self._at(self.value + (steps if up else -steps), rng)

    def _at(self, value: int, rng: Generator) -> Plan:
        plan = self.plan
        if self.name == "layers":
            return replace(plan, layers=value)
        if self.name == "channels":
            return replace(plan, channels=value)
        counts = (plan.groups if self.name == "groups" else plan.neurons).copy()
        if self.uniform:
            counts[:] = value
        else:
            kept = np.flatnonzero(plan.kept)
            full = self.architecture.dimensions
            most = full.groups if self.name == "groups" else full.neurons
            change = value - self.value
            free = most - counts[kept] if change > 0 else counts[kept] - 1
            moved = rng.multivariate_hypergeometric(free, abs(change), method="marginals")
            counts[kept] += np.sign(change) * moved
        changed: dict[str, Any] = {self.name: counts}
        return replace(plan, **changed)
