"""One-shot pruning: the teacher's order cut once, at the teacher's own proportions.

It is how a teacher is pruned without a search, as in Compact Language Models via Pruning and
Knowledge Distillation (Minitron, arXiv 2407.14679): every dimension keeps its first in the order of
importance. Here all dimensions shrink by the same factor, so that the shape is the one that the
teacher's family would have at that size. What a search finds has to be better than this.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from evo.algorithms.base import Proposal
from evo.algorithms.random_search import RandomSearch
from evo.genome.fit_to_bin import WidthPlan, cost_of
from evo.genome.space import Space

OPERATOR = "one-shot"
"""The operator of such a candidate in a history."""

FACTORS = 1000
"""How many factors from 0 to 1 are tried."""


class OneShot(RandomSearch):
    """A single candidate."""

    def _propose(self) -> Proposal:
        return one_shot(self.space, self.rng)

    def _new(self) -> Proposal | None:
        return None if self.seen else self._propose()


def one_shot(space: Space, rng: Generator) -> Proposal:
    """The candidate by one-shot pruning.

    Args:
        space: with the order of importance.
        rng: breaks ties on the way into the bin.

    Raises:
        UserError: the space rejects what lies outside of its bin, and this does.
    """
    return Proposal(space.prefix(proportional(space), rng), OPERATOR)


def proportional(space: Space) -> WidthPlan:
    """The plan whose dimensions are all the same share of the teacher's, nearest to the middle of
    the space's bin; the middle is the geometric mean of its ends."""
    architecture, bin = space.architecture, space.bin
    full, grid = architecture.dimensions, space.limits.grid(architecture)
    every = np.ones(full.layers, np.int64)

    def of(factor: float) -> WidthPlan:
        channels = _nearest(grid.channels, factor * full.channels)
        groups = min(_nearest(grid.groups, factor * full.groups), grid.groups_beside(channels))
        return WidthPlan(
            _nearest(grid.layers, factor * full.layers),
            channels,
            groups * every,
            _nearest(grid.neurons, factor * full.neurons) * every,
            space.order.layers,
        )

    def distance(plan: WidthPlan) -> float:
        return abs(np.log(cost_of(architecture, bin.cost, plan) ** 2 / (bin.low * bin.high)))

    plans = [of(factor / FACTORS) for factor in range(1, FACTORS + 1)]
    return min(plans, key=distance)


def _nearest(allowed: range, width: float) -> int:
    step = round((width - allowed.start) / allowed.step)
    return allowed[min(max(step, 0), len(allowed) - 1)]
