"""Evolutionary search with elites, mutation and crossover.

Where to Begin: Efficient Pretraining via Subnetwork Selection and Distillation (arXiv 2510.07227),
section 3: a random first generation, then offspring of the best candidates seen so far. A child
that was seen before is drawn again, so no candidate is scored twice, and an elite keeps its
fitness. Unlike there, offspring may be chosen among more proposals than are scored, by a model of
what has been scored so far, and half of them may be elites some of whose units are swapped by the
gradients of their gates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from evo.algorithms.base import Observation, Proposal, Scored, Seed, Strategy, rank_key
from evo.algorithms.settings import Budget, Rates
from evo.genome.operators.gate_swaps import swapped_by_gates
from evo.genome.space import Space
from evo.genome.subnet import Subnet

GATED = 3
"""The gradients of so many elites of a niche, the best ones, are of use."""

SWAPPED = 0.5
"""The share of a generation that is made by swaps where there are gradients."""

SWAP_TRIES = 20
"""Swaps that are drawn for each new candidate, at most."""


class Chooser(Protocol):
    """Chooses among proposals, see `evo.algorithms.surrogate`."""

    def relevant(self, observed: Sequence[Observation]) -> list[Observation]:
        """The observations by which it would choose."""

    def choose(
        self,
        proposals: Sequence[Proposal],
        count: int,
        observed: Sequence[Observation],
        meanwhile: Callable[[], None],
    ) -> list[Proposal]:
        """Some of the proposals, `count` at most."""


class Evolution(Strategy):
    """Mutation and crossover of the elites.

    Args:
        space: where candidates come from.
        budget: how long to go on.
        seed: of all randomness.
        rates: where offspring come from.

    Attributes:
        elites: the best candidates so far, best first.
        chooser: chooses among `Rates.proposals` for each of its places in a generation after the
            first; set before the first `ask`. None: proposals are taken as they come.
        observed: the observations by which it chooses.
    """

    def __init__(
        self, space: Space, budget: Budget, seed: Seed, rates: Rates | None = None
    ) -> None:
        super().__init__(space, budget, seed)
        self.rates = rates or Rates()
        self._elites: list[Scored] = []
        self.chooser: Chooser | None = None
        self.observed: list[Observation] = []
        self._swaps = int(SWAPPED * budget.population)

    def tell(self, scored: Sequence[Scored]) -> None:
        super().tell(scored)
        if self.chooser is not None:
            new = [one.observation for one in scored if one.observation is not None]
            self.observed = self.chooser.relevant([*self.observed, *new])

    def state(self) -> dict[str, Any]:
        known = {one.subnet.id: [one.loss, one.variance] for one in self.observed}
        return super().state() | {"observed": known}

    def restore(self, state: dict[str, Any], scored: Sequence[Scored], seen: Iterable[str]) -> None:
        super().restore(state, scored, seen)
        subnets = {one.subnet.id: one.subnet for one in scored}
        known = state.get("observed", {})  # a search of before there was a chooser has none
        self.observed = [Observation(subnets[name], *values) for name, values in known.items()]

    @property
    def chooses(self) -> bool:
        return self.chooser is not None

    def next_to_gate(self, known: Collection[str]) -> Subnet | None:
        """One of the best elites of a niche; the niches take turns from generation to generation.

        Units are swapped in fine spaces alone.
        """
        if not self.space.fine or not self._swaps or self.ended is not None:
            return None
        niches = list(self.niches.values())
        for turn in range(len(niches)):
            for elite in niches[(self.generation + turn) % len(niches)][:GATED]:
                if elite.subnet.id not in known:
                    return elite.subnet
        return None

    @property
    def niches(self) -> Mapping[int, list[Scored]]:
        """The elites of each niche that has any, the best first; here there is one niche."""
        return {0: self._elites} if self._elites else {}

    @property
    def elite_count(self) -> int:
        return self.rates.elites

    @property
    def elites(self) -> list[Scored]:
        return self._elites

    def _chosen(self, meanwhile: Callable[[], None]) -> list[Proposal]:
        if self.ended is not None:
            return []
        swapped = self._swapped(self._swaps, meanwhile)
        if self.chooser is None or not self.observed:
            return swapped
        known = self.seen | {proposal.subnet.id for proposal in swapped}
        count = round(self.rates.by_model * (self.budget.population - len(swapped)))
        drawn: dict[str, Proposal] = {}
        for _ in range(self.rates.proposals * count):
            proposal = self._propose()
            if proposal.subnet.id not in known:
                drawn.setdefault(proposal.subnet.id, proposal)
            meanwhile()
        chosen = self.chooser.choose(list(drawn.values()), count, self.observed, meanwhile)
        return swapped + chosen

    def _swapped(self, count: int, meanwhile: Callable[[], None]) -> list[Proposal]:
        """New candidates, at most so many, that swap units of elites with gradients.

        Niches are drawn evenly; of a niche, a better elite twice as often as the next one.
        """
        niches = [
            [elite.subnet for elite in elites if elite.subnet.id in self.gradients]
            for elites in self.niches.values()
        ]
        niches = [gated for gated in niches if gated]
        found: dict[str, Proposal] = {}
        for _ in range(SWAP_TRIES * count if niches else 0):
            gated = niches[self.rng.integers(len(niches))]
            parent = gated[min(len(gated), int(self.rng.geometric(0.5))) - 1]
            child = swapped_by_gates(self.space, parent, self.gradients[parent.id], self.rng)
            if child.id not in self.seen:
                found.setdefault(child.id, Proposal(child, "gates", (parent.id,)))
            meanwhile()
            if len(found) == count:
                break
        return list(found.values())

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
