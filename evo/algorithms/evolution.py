"""Evolutionary search with elites, mutation and crossover.

Where to Begin: Efficient Pretraining via Subnetwork Selection and Distillation (arXiv 2510.07227),
section 3: a random first generation, then offspring of the best candidates seen so far. A child
that was seen before is drawn again, so no candidate is scored twice, and an elite keeps its
fitness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evo.algorithms.base import Budget, Proposal, Scored, Seed, Strategy, rank_key
from evo.errors import UserError
from evo.genome.space import Space
from evo.genome.subnet import Subnet


@dataclass(frozen=True)
class Rates:
    """Where offspring come from.

    Attributes:
        elites: how many of the best candidates are parents.
        mutation: share of offspring that mutate one elite.
        crossover: share that recombine two elites; the rest are random samples.

    Raises:
        UserError: no elites, or shares that are no shares.
    """

    elites: int = 10
    mutation: float = 0.5
    crossover: float = 0.4

    def __post_init__(self) -> None:
        if self.elites < 1:
            raise UserError(f"{self.elites} elites have no offspring: give at least 1")
        shares = self.mutation >= 0 and self.crossover >= 0
        if not (shares and self.mutation + self.crossover <= 1):
            raise UserError(
                f"rates of {self.mutation} (mutation) and {self.crossover} (crossover) are no "
                "shares: give numbers from 0 whose sum is at most 1"
            )


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
        self.elites: list[Scored] = []

    @property
    def places(self) -> int:
        return self.rates.elites

    @property
    def leaders(self) -> list[Scored]:
        return self.elites

    def _propose(self) -> Proposal:
        draw = self.rng.random()
        if self.generation == 0 or not self.elites:
            return Proposal(self.space.sample(self.rng), "sample")
        if draw < self.rates.mutation:
            parent = self._elite()
            return Proposal(self.space.mutate(parent, self.rng), "mutation", (parent.id,))
        if draw < self.rates.mutation + self.rates.crossover and len(self.elites) > 1:
            first, second = (
                self.elites[index].subnet
                for index in self.rng.choice(len(self.elites), 2, replace=False)
            )
            child = self.space.crossover(first, second, self.rng)
            return Proposal(child, "crossover", (first.id, second.id))
        return Proposal(self.space.sample(self.rng), "sample")

    def _elite(self) -> Subnet:
        return self.elites[self.rng.integers(len(self.elites))].subnet

    def _learn(self, scored: Sequence[Scored]) -> None:
        self.elites = sorted([*self.elites, *scored], key=rank_key)[: self.rates.elites]
