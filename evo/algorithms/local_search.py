"""Local search: mutations of the single best candidate.

This is stochastic hill climbing (Russell and Norvig, Artificial Intelligence: A Modern Approach,
the section on local search), in generations: the baseline of evolution without crossover and with
a single elite.
"""

from __future__ import annotations

from collections.abc import Sequence

from evo.algorithms.base import Proposal, Scored, Seed, Strategy, rank_key
from evo.algorithms.settings import Budget
from evo.genome.space import Space
from evo.genome.subnet import Subnet


class LocalSearch(Strategy):
    """After a random first generation, mutations of the single best candidate.

    Attributes:
        operator: how a child is made, as its history says.
        incumbent: the best candidate so far.
    """

    operator = "mutation"

    def __init__(self, space: Space, budget: Budget, seed: Seed) -> None:
        super().__init__(space, budget, seed)
        self.incumbent: Scored | None = None

    def _propose(self) -> Proposal:
        if self.incumbent is None:
            return Proposal(self.space.sample(self.rng), "sample")
        parent = self.incumbent.subnet
        return Proposal(self._child(parent), self.operator, (parent.id,))

    def _child(self, parent: Subnet) -> Subnet:
        return self.space.mutate(parent, self.rng)

    def _learn(self, scored: Sequence[Scored]) -> None:
        candidates = [candidate for candidate in (self.incumbent, *scored) if candidate is not None]
        self.incumbent = min(candidates, key=rank_key, default=None)
