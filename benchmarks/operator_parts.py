"""The operators of the spaces in parts, to be taken out one by one, or tried alone.

With the parts in `BUILT_IN` a space proposes exactly what `evo.space.Space` does; without any, what
it did before they were there. The others were tried and did not earn their place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo import operators
from evo.bins import Bin
from evo.cost import Architecture
from evo.limits import DIMENSIONS
from evo.operators import Genes, Keys, crossed
from evo.order import Order
from evo.space import Space
from evo.subnet import Dimensions, Subnet

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
BUILT_IN = frozenset(PARTS) - {"sensitivity"}


class SpaceOfParts(Space):
    """A space whose operators have some of the parts only.

    Args:
        name, architecture, order, bin: as of `Space`.
        parts: of `PARTS`.
        sensitivity: how much the NLL grows when a layer is thinned, shape [L]; of use to the part
            of that name only.
    """

    def __init__(
        self,
        name: str,
        architecture: Architecture,
        order: Order,
        bin: Bin,
        parts: Collection[str],
        sensitivity: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(name, architecture, order, bin)
        self.parts = frozenset(parts)
        self.sensitivity = sensitivity if "sensitivity" in parts else None
        self._crossing = False

    def mutate(self, parent: Subnet, rng: Generator, progress: float = 0.0) -> Subnet:
        progress = progress if "shrink" in self.parts else 0.0
        return self.varied(parent, partial(self._mutated, progress=progress), rng)

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
        if self.uniform or ("halves" in self.parts and self.sensitivity is None):
            return super()._random_widths(allowed, draws, rng)
        layers = self.architecture.dimensions.layers
        common = rng.integers(len(allowed), size=(draws, 1))
        own = rng.integers(len(allowed), size=(draws, layers))
        if "halves" in self.parts:
            spread = np.maximum(0, rng.uniform(-1, 1, (draws, 1)))
        else:
            spread = rng.random((draws, 1))
        widths = common + spread * (own - common)
        if self.sensitivity is not None:
            widths = widths * (self.sensitivity / self.sensitivity.mean()) ** rng.random((draws, 1))
        steps = np.clip(np.rint(widths), 0, len(allowed) - 1).astype(np.int64)
        return allowed.start + allowed.step * steps

    def _mutated(
        self,
        genes: Genes,
        architecture: Architecture,
        rng: Generator,
        *,
        fine: bool,
        uniform: bool,
        progress: float,
    ) -> Genes:
        full = architecture.dimensions
        chosen = rng.random(len(DIMENSIONS)) < 0.5
        chosen[rng.integers(len(DIMENSIONS))] = True
        scale = 10 ** rng.uniform(-2, -0.5 - progress)
        alike = uniform or ("alike" in self.parts and rng.random() < 0.5)
        plan = genes.plan
        changes: dict[str, Any] = {}
        for name in np.array(DIMENSIONS)[chosen]:
            if name == "layers":
                plan = operators._mutated_layers(plan, full.layers, scale, rng, fine=fine)
                continue
            if name == "channels":
                low = min(architecture.head_size, full.channels)
                step = operators._steps(full.channels, scale, (), rng)
                channels = int(np.clip(plan.channels + step, low, full.channels))
                plan = replace(plan, channels=channels)
            else:
                most = full.groups if name == "groups" else full.neurons
                counts = getattr(plan, name)
                step = operators._steps(most, scale, (1,) if alike else counts.shape, rng)
                if not alike:
                    step = step * (rng.random(counts.shape) < rng.uniform(1 / len(counts), 1))
                    if self.sensitivity is not None:
                        step = np.abs(step) * self._directions(rng)
                plan = replace(plan, **{name: np.clip(counts + step, 1, most)})
            if not fine:
                continue
            keys = getattr(genes, name)
            if "border" not in self.parts:
                changes[name] = swapped_anywhere(keys, scale, rng)
            elif rng.random() < 0.5:
                changes[name] = operators._swapped(keys, scale, rng)
        return replace(genes, plan=plan, **changes)

    def _directions(self, rng: Generator) -> NDArray[np.int64]:
        """Up, by a chance from 0.15 of the least sensitive layer to 0.85 of the most."""
        assert self.sensitivity is not None
        ranks = np.argsort(np.argsort(self.sensitivity)) / max(1, len(self.sensitivity) - 1)
        return np.where(rng.random(len(ranks)) < 0.15 + 0.7 * ranks, 1, -1)


def sensitivities(
    order: Order, dimensions: Dimensions, fitness: Callable[[Subnet], float]
) -> NDArray[np.float64]:
    """How much the NLL grows when half of one layer's groups and neurons are dropped, shape [L].

    The least important half, and no other layer's. A growth below 1% of the largest counts as that.
    """
    whole = Subnet.full(dimensions)
    growth = np.empty(dimensions.layers)
    for layer in range(dimensions.layers):
        groups, neurons = whole.groups.copy(), whole.neurons.copy()
        groups[layer] = order.groups[layer] < (dimensions.groups + 1) // 2
        neurons[layer] = order.neurons[layer] < (dimensions.neurons + 1) // 2
        growth[layer] = fitness(replace(whole, groups=groups, neurons=neurons)) - fitness(whole)
    return np.maximum(growth, growth.max() / 100)


def swapped_anywhere(keys: Keys, scale: float, rng: Generator) -> Keys:
    """Keys in which up to a share `scale` of the kept swap places with dropped ones."""
    keys = keys.copy()
    for row in keys.reshape(-1, keys.shape[-1]):
        kept, dropped = np.flatnonzero(row < 1), np.flatnonzero(row >= 1)
        most = min(len(kept), len(dropped))
        if most:
            count = min(most, int(rng.integers(1, max(1, round(scale * len(kept))) + 1)))
            row[rng.choice(kept, count, replace=False)] += 1
            row[rng.choice(dropped, count, replace=False)] -= 1
    return keys
