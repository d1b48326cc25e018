"""Ask and tell: what every search algorithm has in common.

`ask` gives a generation of candidates that were never asked for before, `tell` takes their
fitness. A strategy is a pure function of its space, its settings, its seed and what it is told;
between generations its state is small enough to write down.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evo.algorithms.settings import Budget
from evo.genome.enumeration import enumerate_space
from evo.genome.operators.gate_swaps import GateGradients
from evo.genome.space import Space
from evo.genome.subnet import Subnet

TRIES = 32
"""Draws for one new candidate, before asking whether there is a new one at all."""

ENUMERABLE = 50_000
"""Spaces of at most so many candidates are listed to find those that are left,"""

ENUMERABLE_BYTES = 2**30
"""if their genomes take at most so much memory."""

Seed = int | Sequence[int]
"""What `numpy.random.default_rng` takes."""


@dataclass(frozen=True)
class Proposal:
    """A candidate that is to be scored.

    Attributes:
        subnet: what it keeps.
        operator: how it was made: `sample`, `mutation`, `crossover`, `gates`, `switch`,
            `enumeration`, `one-shot`, or `start`, from another run's.
        parents: ids of the candidates it was made from.
    """

    subnet: Subnet
    operator: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observation:
    """What is known of a candidate's fitness, also where its scoring ended at a rung.

    Attributes:
        subnet: what it keeps.
        loss: an estimate of the fitness, from what was scored.
        variance: of its error; 0 where the candidate was scored in full.
    """

    subnet: Subnet
    loss: float
    variance: float


@dataclass(frozen=True)
class Scored:
    """A candidate with its fitness.

    Attributes:
        subnet: what it keeps.
        fitness: the lower the better, such as mean negative log-likelihood; None where
            scoring failed or ended at a rung.
        observation: what is known of its fitness; None where scoring failed.
    """

    subnet: Subnet
    fitness: float | None
    observation: Observation | None = None


class Strategy(ABC):
    """A search algorithm.

    Args:
        space: where candidates come from.
        budget: how long to go on.
        seed: of all randomness.

    Attributes:
        generation: the one that `ask` gives next, or that awaits its `tell`.
        ended: why there is nothing more to ask for: `budget`, `patience`, `space exhausted`, or
            what whoever tells it the scores may set: `failed`, or a limit of `evo.search.stopping`;
            None while there is.
        improved: the last generation in which the best of a niche became better.
        starts: what the first generation begins with, each once, a population at most; set before
            the first `ask`.
        gradients: of the gates of candidates, by candidate, for those that make use of them; set
            before an `ask`.
    """

    def __init__(self, space: Space, budget: Budget, seed: Seed) -> None:
        self.space, self.budget = space, budget
        self.rng = np.random.default_rng(seed)
        self.generation = 0
        self.ended: str | None = None
        self.improved = 0
        self._bests: dict[int, Scored] = {}
        self.seen: set[str] = set()
        self.starts: Sequence[Proposal] = ()
        self.gradients: Mapping[str, GateGradients] = {}

    def ask(self, meanwhile: Callable[[], None] = lambda: None) -> list[Proposal]:
        """The next generation, without a candidate that was asked for before.

        Fewer than the population where the space has no more; none once the search has ended.

        Args:
            meanwhile: called after each proposal, as a generation of them may take seconds.
        """
        proposals = list(self.starts) if self.generation == 0 else self._chosen(meanwhile)
        self.seen.update(proposal.subnet.id for proposal in proposals)
        while self.ended is None and len(proposals) < self.budget.population:
            proposal = self._new()
            if proposal is None:
                break
            self.seen.add(proposal.subnet.id)
            proposals.append(proposal)
            meanwhile()
        if not proposals and self.ended is None:
            self.ended = "space exhausted"
        return proposals

    def repeat(self, proposals: Sequence[Proposal], rng: dict[str, Any]) -> None:
        """Take up a generation that `ask` gave before.

        Args:
            proposals: the generation.
            rng: the state of the random numbers afterwards.
        """
        self.seen.update(proposal.subnet.id for proposal in proposals)
        self.rng.bit_generator.state = rng

    def tell(self, scored: Sequence[Scored]) -> None:
        """The fitness of all that `ask` gave, in any order."""
        ranked = sorted(scored, key=lambda candidate: candidate.subnet.id)
        valid = [candidate for candidate in ranked if candidate.fitness is not None]
        before = self._bests
        self._bests = self._best_of_niches([*before.values(), *valid])
        if any(
            niche not in before or rank_key(best)[0] < rank_key(before[niche])[0]
            for niche, best in self._bests.items()
        ):
            self.improved = self.generation
        self._learn(valid)
        exhausted = len(scored) < self.budget.population
        self.generation += 1
        self.ended = "space exhausted" if exhausted else self._spent()

    def state(self) -> dict[str, Any]:
        """What `restore` needs besides the scored candidates; JSON."""
        return {
            "generation": self.generation,
            "ended": self.ended,
            "improved": self.improved,
            "elites": [elite.subnet.id for elite in self.elites],
            "rng": json.loads(json.dumps(self.rng.bit_generator.state, default=int)),
        }

    def restore(self, state: dict[str, Any], scored: Sequence[Scored], seen: Iterable[str]) -> None:
        """Go on from the end of a generation.

        Args:
            state: as `state` gave it then.
            scored: the candidates that the state names, in any order.
            seen: ids of all candidates up to that generation.
        """
        self.generation, self.improved = state["generation"], state["improved"]
        # The budget may be another than when the state was written, and so may other limits.
        ended = state["ended"]
        self.ended = ended if ended in ("space exhausted", "failed") else self._spent()
        self.rng.bit_generator.state = state["rng"]
        self.seen = set(seen)
        valid = sorted(
            (candidate for candidate in scored if candidate.fitness is not None), key=rank_key
        )
        self._bests = self._best_of_niches(valid)
        self._learn(valid)

    def _spent(self) -> str | None:
        """Which part of the budget is used up; None where there is more of it."""
        last, patience = self.generation - 1, self.budget.patience
        if last >= self.budget.generations:
            return "budget"
        if patience is not None and last - self.improved >= patience:
            return "patience"
        return None

    @property
    def chooses(self) -> bool:
        """Whether a generation is chosen by a model, whose last bits may differ elsewhere."""
        return False

    def next_to_gate(self, known: Collection[str]) -> Subnet | None:
        """The elite whose gradient is of most use next.

        Args:
            known: candidates whose gradient is there already, or cannot be had.

        Returns:
            None where no gradient is of use.
        """
        return None

    @property
    def best(self) -> Scored | None:
        """The best candidate so far."""
        return min(self._bests.values(), key=rank_key, default=None)

    def niche(self, subnet: Subnet) -> int:
        """The niche of a candidate, within which it competes; here there is one for all."""
        return 0

    @property
    def elite_count(self) -> int:
        """How many candidates of a niche may be parents of the next generation."""
        return 1

    @property
    def elites(self) -> list[Scored]:
        """Those that are now, the best first."""
        return [self.best] if self.best else []

    @abstractmethod
    def _propose(self) -> Proposal:
        """One candidate, perhaps one seen before."""

    @abstractmethod
    def _learn(self, scored: Sequence[Scored]) -> None:
        """Take in candidates that were scored in full."""

    def _best_of_niches(self, scored: Iterable[Scored]) -> dict[int, Scored]:
        bests: dict[int, Scored] = {}
        for one in scored:
            niche = self.niche(one.subnet)
            bests[niche] = min(bests.get(niche, one), one, key=rank_key)
        return bests

    def _chosen(self, meanwhile: Callable[[], None]) -> list[Proposal]:
        """New candidates of a later generation that are chosen among many; here there are none."""
        return []

    def _new(self) -> Proposal | None:
        for _ in range(TRIES):
            proposal = self._propose()
            if proposal.subnet.id not in self.seen:
                return proposal
        if self._every is None:
            return self._new_sample()
        unseen = [candidate for candidate in self._every if candidate not in self.seen]
        if not unseen:
            return None
        genome = self._every[unseen[self.rng.integers(len(unseen))]]
        dimensions = self.space.architecture.dimensions
        return Proposal(Subnet.unpack(genome, dimensions), "enumeration")

    @cached_property
    def _every(self) -> dict[str, bytes] | None:
        """The genomes of all candidates of the space; None where they are too many."""
        packed = len(Subnet.full(self.space.architecture.dimensions).pack())
        return enumerate_space(self.space, min(ENUMERABLE, ENUMERABLE_BYTES // packed))

    def _new_sample(self) -> Proposal | None:
        """A random candidate from a space that has very many more than were ever seen."""
        for _ in range(TRIES**2):
            subnet = self.space.sample(self.rng)
            if subnet.id not in self.seen:
                return Proposal(subnet, "sample")
        return None


def rank_key(scored: Scored) -> tuple[float, str]:
    assert scored.fitness is not None
    return scored.fitness, scored.subnet.id
