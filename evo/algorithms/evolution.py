"""Evolutionary search with elites, mutation and crossover.

Where to Begin: Efficient Pretraining via Subnetwork Selection and Distillation (arXiv 2510.07227),
section 3: a random first generation, then offspring of the best candidates seen so far. A child
that was seen before is drawn again, so no candidate is scored twice, and an elite keeps its
fitness.
"""

from __future__ import annotations

from collections.abc import Sequence

from evo.algorithms.base import Proposal, Scored, Seed, Strategy, rank_key
from evo.algorithms.settings import Budget, Rates
from evo.genome.space import Space
from evo.genome.subnet import Subnet


class Evolution(Strategy):
    """Mutation and crossover of the elites.

    Args:
        space: where candidates come from.
        budget: how long to go on.
        seed: of all randomness.
        rates: where offspring come from.

    Attributes:
        elites: the best candidates so far, best first.
    """

    def __init__(
        self, space: Space, budget: Budget, seed: Seed, rates: Rates | None = None
    ) -> None:
        super().__init__(space, budget, seed)
        self.rates = rates or Rates()
        self._elites: list[Scored] = []

    @property
    def elite_count(self) -> int:
        return self.rates.elites

    @property
    def elites(self) -> list[Scored]:
        return self._elites

    def _propose(self) -> Proposal:
        draw = self.rng.random()
        if self.generation == 0 or not self._elites:
            return Proposal(self.space.sample(self.rng), "sample")
        if draw < self.rates.mutation:
            parent = self._elite()
            return Proposal(self.space.mutate(parent, self.rng), "mutation", (parent.id,))
        if draw < self.rates.mutation + self.rates.crossover and len(self._elites) > 1:
            first, second = self._pair()
            child = self.space.crossover(first, second, self.rng)
            return Proposal(child, "crossover", (first.id, second.id))
        return Proposal(self.space.sample(self.rng), "sample")

    def _elite(self) -> Subnet:
        return self._elites[self.rng.integers(len(self._elites))].subnet

    def _pair(self) -> tuple[Subnet, Subnet]:
        first, second = self.rng.choice(len(self._elites), 2, replace=False)
        return self._elites[first].subnet, self._elites[second].subnet

    def _learn(self, scored: Sequence[Scored]) -> None:
        self._elites = sorted([*self._elites, *scored], key=rank_key)[: self.rates.elites]
