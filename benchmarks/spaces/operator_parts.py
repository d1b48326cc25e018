"""The operators of the spaces in parts, to be taken out one by one, or tried alone.

With the parts in `BUILT_IN` a space proposes exactly what `evo.genome.space.Space` does; without
any, what it did before they were there. The others were tried and did not earn their place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.algorithms.base import Proposal
from evo.algorithms.evolution import Evolution
from evo.genome.bins import Bin
from evo.genome.cost import Architecture
from evo.genome.operators import mutation
from evo.genome.operators.crossover import crossed
from evo.genome.operators.rank_genes import Genes, Keys
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.genome.width_limits import DIMENSIONS

PARTS = {
    "start": "samples near the ordered prefix, not drowned in noise",
    "growth": "what a width gains or loses in a mutation is the order's next, not half by chance",
    "crossover": "the same where parents disagree",
    "border": "swaps at the border of kept and dropped, half of the time; else anywhere, always",
    "alike": "layers change their widths alike, half of the time; else never",
    "shrink": "the largest steps shrink tenfold towards the end",
    "halves": "half of the samples have layers alike; else hardly any",
    "sensitivity": "layers that suffer more from thinning get more width",
}
BUILT_IN = frozenset({"start", "growth", "crossover", "sensitivity"})


class SpaceOfParts(Space):
    """A space whose operators have some of the parts only.

    Args:
        name, architecture, order, bin: as of `Space`.
        parts: of `PARTS`.

    Attributes:
        progress: of the search, from 0 to 1; of use to `shrink`.
    """

    def __init__(
        self, name: str, architecture: Architecture, order: Order, bin: Bin, parts: Collection[str]
    ) -> None:
        if "sensitivity" not in parts:
            order = replace(order, sensitivity=None)
        super().__init__(name, architecture, order, bin)
        self.parts = frozenset(parts)
        self.progress = 0.0
        self._crossing = False

    def mutate(self, parent: Subnet, rng: Generator) -> Subnet:
        return self.varied(parent, self._mutated, rng)

    def crossover(self, first: Subnet, second: Subnet, rng: Generator) -> Subnet:
        pair = [self._genes_to_cross(one, rng) for one in (first, second)]
        return self._in_bin(lambda: crossed(*pair, rng, fine=self.fine, uniform=self.uniform), rng)

    def _genes_to_cross(self, parent: Subnet, rng: Generator) -> Genes:
        self._crossing = True
        genes = self._genes(parent, rng)
        self._crossing = False
        return genes

    def _noisy(self, keys: Keys, rows: int, rng: Generator) -> Keys:  # type: ignore[override]
        if "start" in self.parts:
            return super()._noisy(keys, rows, rng)
        return keys + 4 * rng.random() ** 2 * rng.random((rows, keys.shape[-1]), np.float32)

    def _tie_break(  # type: ignore[override]
        self, keys: Keys, shape: tuple[int, ...], rng: Generator
    ) -> Keys:
        if ("crossover" if self._crossing else "growth") in self.parts:
            return super()._tie_break(keys, shape, rng)
        return np.float32(0.49) * (keys + rng.random(shape, np.float32))

    def _random_widths(self, allowed: range, draws: int, rng: Generator) -> NDArray[np.int64]:
        if self.uniform or "halves" not in self.parts:
            return super()._random_widths(allowed, draws, rng)
        layers, sensitivity = self.architecture.dimensions.layers, self.order.sensitivity
        common = rng.integers(len(allowed), size=(draws, 1))
        own = rng.integers(len(allowed), size=(draws, layers))
        widths = common + np.maximum(0, rng.uniform(-1, 1, (draws, 1))) * (own - common)
        if sensitivity is not None:
            widths *= (sensitivity / sensitivity.mean()) ** rng.random((draws, 1))
        steps = np.clip(np.rint(widths), 0, len(allowed) - 1).astype(np.int64)
        return allowed.start + allowed.step * steps

    def _mutated(
        self, genes: Genes, architecture: Architecture, rng: Generator, *, fine: bool, uniform: bool
    ) -> Genes:
        full, sensitivity = architecture.dimensions, self.order.sensitivity
        chosen = rng.random(len(DIMENSIONS)) < 0.5
        chosen[rng.integers(len(DIMENSIONS))] = True
        scale = 10 ** rng.uniform(-2, -0.5 - self.progress * ("shrink" in self.parts))
        alike = uniform or ("alike" in self.parts and rng.random() < 0.5)
        plan = genes.plan
        changes: dict[str, Any] = {}
        for name in np.array(DIMENSIONS)[chosen]:
            if name == "layers":
                plan = mutation.mutated_layers(plan, full.layers, scale, rng, fine=fine)
                continue
            if name == "channels":
                low = min(architecture.head_size, full.channels)
                step = mutation.steps(full.channels, scale, (), rng)
                channels = int(np.clip(plan.channels + step, low, full.channels))
                plan = replace(plan, channels=channels)
            else:
                most = full.groups if name == "groups" else full.neurons
                counts = getattr(plan, name)
                step = mutation.steps(most, scale, (1,) if alike else counts.shape, rng)
                if not alike:
                    step = step * (rng.random(counts.shape) < rng.uniform(1 / len(counts), 1))
                    if sensitivity is not None:
                        step = np.abs(step) * mutation.directions(sensitivity, rng)
                plan = replace(plan, **{name: np.clip(counts + step, 1, most)})
            if not fine:
                continue
            keys = getattr(genes, name)
            if "border" not in self.parts:
                changes[name] = mutation.swapped(keys, scale, rng)
            elif rng.random() < 0.5:
                changes[name] = swapped_at_the_border(keys, scale, rng)
        return replace(genes, plan=plan, **changes)


class EvolutionOfParts(Evolution):
    """Evolution that tells its space how far it is."""

    def ask(self) -> list[Proposal]:
        assert isinstance(self.space, SpaceOfParts)
        self.space.progress = self.generation / max(1, self.budget.generations)
        return super().ask()


def swapped_at_the_border(keys: Keys, scale: float, rng: Generator) -> Keys:
    """Keys in which up to a share `scale` of the kept of some layers swap places with dropped ones.

    A rank's chance falls with its distance from the border between the first of the order and the
    rest, by e over `scale` of the dimension: of the kept the least important leave, of the dropped
    the most important come.
    """
    rows = keys.reshape(-1, keys.shape[-1])
    ranks = np.arange(rows.shape[1], dtype=np.float32)
    kept = rows < 1
    counts = kept.sum(1, keepdims=True, dtype=np.float32)
    distance = np.where(kept, counts - 1 - ranks, ranks - counts)
    chance = np.exp(np.maximum(distance, 0) / -np.float32(max(1, scale * rows.shape[1])))
    swaps = np.ceil(scale * rng.random(counts.shape, np.float32) * counts)
    swaps *= rng.random(counts.shape) < rng.uniform(1 / len(rows), 1)
    swaps[counts == len(ranks)] = 0
    leaving = (chance * kept).sum(1, keepdims=True)
    coming = np.maximum((chance * ~kept).sum(1, keepdims=True), np.float32(1e-9))
    swapping = rng.random(rows.shape, np.float32) < chance * swaps / np.where(kept, leaving, coming)
    # Past all others: where more leave than come, or come than leave, the border's next make up.
    return (rows + swapping * np.where(kept, np.float32(2), np.float32(-2))).reshape(keys.shape)
