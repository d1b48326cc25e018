"""MAP-Elites: evolution whose elites are kept per number of kept layers.

Illuminating Search Spaces by Mapping Elites (arXiv 1504.04909): the best of every cell of a grid of
traits is kept, and every cell has the same chance to be a parent's. Here the trait is the number of
kept layers, by which the loss before training orders networks otherwise than what they become when
trained: a search that keeps the best of all ends with forty of one depth. Unlike there, a niche has
as many elites as its even share of the elites, at least one, offspring are made by crossover and
from random samples too, and come in generations.

No operator is needed that moves offspring between niches: at a quarter of the embedded teacher's
parameters, half of the mutations in coarse spaces and a third in fine ones change the number of
layers (benchmarks/ends_best/niches.md), and crossover takes it from either parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evo.algorithms.base import Scored, Seed, rank_key
from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget, Rates
from evo.genome.space import Space
from evo.genome.subnet import Subnet


class MapElites(Evolution):
    """Mutation and crossover of the elites of all niches, each niche equally often.

    Args:
        space: where candidates come from; there are as many niches as its candidates have
            numbers of layers.
        budget: how long to go on; patience is with the best of every niche.
        seed: of all randomness.
        rates: where offspring come from.

    A niche is named by its number of layers.
    """

    def __init__(
        self, space: Space, budget: Budget, seed: Seed, rates: Rates | None = None
    ) -> None:
        super().__init__(space, budget, seed, rates)
        self._places = max(1, self.rates.elites // len(space.depths))
        self._niches: dict[int, list[Scored]] = {}

    def niche(self, subnet: Subnet) -> int:
        """The number of layers that a candidate keeps."""
        return int(subnet.layers.sum())

    @property
    def niches(self) -> Mapping[int, list[Scored]]:
        return self._niches

    @property
    def elite_count(self) -> int:
        return self._places

    def _elite(self) -> Subnet:
        niches = list(self.niches.values())
        niche = niches[self.rng.integers(len(niches))]
        return niche[self.rng.integers(len(niche))].subnet

    def _pair(self) -> tuple[Subnet, Subnet]:
        first = second = self._elite()
        while second is first:
            second = self._elite()
        return first, second

    def _learn(self, scored: Sequence[Scored]) -> None:
        niches: dict[int, list[Scored]] = {}
        for one in sorted([*self._elites, *scored], key=rank_key):
            niche = niches.setdefault(self.niche(one.subnet), [])
            if len(niche) < self._places:
                niche.append(one)
        self._niches = {layers: niches[layers] for layers in sorted(niches)}
        self._elites = sorted((one for niche in niches.values() for one in niche), key=rank_key)
