"""The four search spaces: how subnets are sampled, mutated and recombined.

Granularity: coarse keeps the first n of an order, fine any set. Sharing: uniform keeps the same
ranks in every layer, layerwise each layer its own. All four speak of masks in the order's ranks;
only the results are masks over the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.bins import Bin
from evo.cost import Architecture, parameters, prices
from evo.errors import UserError
from evo.fit import Plan, cost, fit
from evo.operators import Genes, Keys, crossed, mutated
from evo.order import Order
from evo.reach import check_reachable, drawn
from evo.subnet import Mask, Subnet

SPACES = ("coarse-uniform", "coarse-layerwise", "fine-uniform", "fine-layerwise")
DRAWS = 128
"""Plans that `sample` draws at once, to keep the first in the bin: its shapes are then distributed
as by rejection sampling, wherever one of so many is in the bin."""

REJECTIONS = 100_000


class Operator(Protocol):
    """Changes genes; draws from `rng`; need not stay in the bin."""

    def __call__(
        self, genes: Genes, architecture: Architecture, rng: Generator, /, *,
        fine: bool, uniform: bool,
    ) -> Genes: ...  # fmt: skip


class Space:
    """The subnets of one kind that lie in one bin.

    Args:
        name: one of `SPACES`.
        architecture: of the teacher.
        order: of the teacher.
        bin: where every proposal lies.
        in_bin: `fit` moves every proposal into the bin; `reject` draws again until one is in it,
            as the paper does.

    Raises:
        UserError: an unknown space, or a bin that it cannot reach.
    """

    def __init__(
        self,
        name: str,
        architecture: Architecture,
        order: Order,
        bin: Bin,
        in_bin: Literal["fit", "reject"] = "fit",
    ) -> None:
        if name not in SPACES:
            raise UserError(f"unknown space {name!r}: the spaces are {', '.join(SPACES)}")
        self.name, self.architecture, self.order, self.bin = name, architecture, order, bin
        self.in_bin = in_bin
        self.fine = name.startswith("fine")
        self.uniform = name.endswith("uniform")
        check_reachable(architecture, bin, uniform=self.uniform)

    def sample(self, rng: Generator) -> Subnet:
        """A random subnet: a random shape, and in fine spaces a noisy prefix of the order."""
        return self._in_bin(lambda: self._random_genes(rng), rng)

    def mutate(self, parent: Subnet, rng: Generator) -> Subnet:
        """Change some dimensions of a subnet, by steps whose size is drawn anew each time."""
        genes = self._genes(parent, rng)
        return self._in_bin(
            lambda: mutated(genes, self.architecture, rng, fine=self.fine, uniform=self.uniform),
            rng,
        )

    def varied(self, parent: Subnet, operator: Operator, rng: Generator) -> Subnet:
        """What another operator on genes makes of a subnet, of this bin or not."""
        genes = self._genes(parent, rng)
        return self._in_bin(
            lambda: operator(genes, self.architecture, rng, fine=self.fine, uniform=self.uniform),
            rng,
        )

    def crossover(self, first: Subnet, second: Subnet, rng: Generator) -> Subnet:
        """Each dimension, layer by layer in layerwise spaces, from either parent or from both."""
        pair = self._genes(first, rng), self._genes(second, rng)
        return self._in_bin(lambda: crossed(*pair, rng, fine=self.fine, uniform=self.uniform), rng)

    def subnet(self, plan: Plan) -> Subnet:
        """The subnet of a plan in a coarse space: the first of the order."""
        return self._subnet(Genes(plan, *self._order_keys()))

    def _in_bin(self, propose: Callable[[], Genes], rng: Generator) -> Subnet:
        if self.in_bin == "reject":
            for _ in range(REJECTIONS):
                genes = propose()
                if cost(self.architecture, genes.plan) in self.bin:
                    return self._subnet(genes)
            raise UserError(
                f"none of {REJECTIONS:,} proposals was in the bin {self.bin}: use --in-bin fit"
            )
        genes = propose()
        plan = fit(self.architecture, self.bin, genes.plan, rng, uniform=self.uniform)
        if plan is None:
            plan = drawn(self.architecture, self.bin, genes.plan, rng, uniform=self.uniform)
        return self._subnet(replace(genes, plan=plan))

    # Shapes

    def _random_genes(self, rng: Generator) -> Genes:
        full = self.architecture.dimensions
        draws = DRAWS if self.in_bin == "fit" else 1
        depth = self.order.layers
        if self.fine:
            depth = np.argsort(np.argsort(self._noisy(depth / depth.size, 1, rng)[0]))
        layers = rng.integers(1, full.layers, draws, endpoint=True)
        lowest = min(self.architecture.head_size, full.channels)
        channels = rng.integers(lowest, full.channels, draws, endpoint=True)
        groups = self._random_widths(full.groups, draws, rng)
        neurons = self._random_widths(full.neurons, draws, rng)
        kept = depth < layers[:, None]
        price = prices(self.architecture, channels)
        costs = price.base + price.layer * layers
        costs = (
            costs + price.group * (groups * kept).sum(1) + price.neuron * (neurons * kept).sum(1)
        )
        inside = (costs >= self.bin.low) & (costs <= self.bin.high)
        center = np.sqrt(float(self.bin.low) * self.bin.high)
        index = inside.argmax() if inside.any() else np.abs(np.log(costs / center)).argmin()
        plan = Plan(int(layers[index]), int(channels[index]), groups[index], neurons[index], depth)
        keys = self._order_keys()
        if not self.fine:
            return Genes(plan, *keys)
        rows = 1 if self.uniform else full.layers
        return Genes(
            plan,
            channels=self._noisy(keys[0], 1, rng)[0],
            groups=self._noisy(keys[1], rows, rng),
            neurons=self._noisy(keys[2], rows, rng),
        )

    def _random_widths(self, most: int, draws: int, rng: Generator) -> NDArray[np.int64]:
        """Widths of every layer, shape [draws, L]: a common one, and a spread around it."""
        layers = self.architecture.dimensions.layers
        common = rng.integers(1, most, (draws, 1), endpoint=True)
        if self.uniform:
            return np.repeat(common, layers, axis=1)
        own = rng.integers(1, most, (draws, layers), endpoint=True)
        spread = rng.random((draws, 1))
        return np.rint(common + spread * (own - common)).astype(np.int64)

    # Keys

    def _order_keys(self) -> tuple[Keys, Keys, Keys]:
        """Keys that keep the first of the order; all layers alike, as keys are by rank."""
        full = self.architecture.dimensions
        return (
            np.arange(full.channels) / full.channels,
            np.arange(full.groups)[None] / full.groups,
            np.arange(full.neurons)[None] / full.neurons,
        )

    @staticmethod
    def _noisy(keys: Keys, rows: int, rng: Generator) -> Keys:
        """Keys of a fine space's sample: the order with noise, from none to drowning it."""
        return keys + 4 * rng.random() ** 2 * rng.random((rows, keys.shape[-1]))

    def _genes(self, parent: Subnet, rng: Generator) -> Genes:
        """A subnet's plan, and keys that keep what it keeps, then the best of the rest."""
        masks = self._by_rank(parent)
        rows = slice(None)
        if self.uniform:  # as the kept layers are; dropped ones need not be alike
            first = int(parent.layers.argmax())
            rows = slice(first, first + 1)
        masks = (masks[0], masks[1][rows], masks[2][rows])
        every = (self.architecture.dimensions.layers,)
        depth_keys = np.where(parent.layers, 0.0, 1.0) + self._tie_break(
            self.order.layers / self.order.layers.size, rng
        )
        plan = Plan(
            layers=int(parent.layers.sum()),
            channels=int(parent.channels.sum()),
            groups=np.broadcast_to(masks[1].sum(1), every),
            neurons=np.broadcast_to(masks[2].sum(1), every),
            depth=np.argsort(np.argsort(depth_keys)) if self.fine else self.order.layers,
        )
        if not self.fine:
            return Genes(plan, *self._order_keys())
        keys = (
            np.where(mask, 0.0, 1.0) + self._tie_break(np.broadcast_to(order, mask.shape), rng)
            for mask, order in zip(masks, self._order_keys(), strict=True)
        )
        return Genes(plan, *keys)

    @staticmethod
    def _tie_break(keys: Keys, rng: Generator) -> Keys:
        """Below one: half the order, half chance; a bias, no more, towards the order."""
        return 0.49 * (keys + rng.random(keys.shape))

    def _by_rank(self, subnet: Subnet) -> tuple[Mask, Mask, Mask]:
        channels = np.empty_like(subnet.channels)
        channels[self.order.channels] = subnet.channels
        groups, neurons = np.empty_like(subnet.groups), np.empty_like(subnet.neurons)
        np.put_along_axis(groups, self.order.groups, subnet.groups, axis=1)
        np.put_along_axis(neurons, self.order.neurons, subnet.neurons, axis=1)
        return channels, groups, neurons

    # Masks

    def _subnet(self, genes: Genes) -> Subnet:
        plan, full = genes.plan, self.architecture.dimensions
        channels = _smallest(genes.channels[None], np.array([plan.channels]))[0]
        groups = _smallest(genes.groups, plan.groups)
        neurons = _smallest(genes.neurons, plan.neurons)
        subnet = Subnet(
            layers=plan.kept,
            channels=channels[self.order.channels],
            groups=np.take_along_axis(groups, self.order.groups, axis=1),
            neurons=np.take_along_axis(neurons, self.order.neurons, axis=1),
        )
        assert subnet.dimensions == full
        assert parameters(self.architecture, subnet.widths) in self.bin
        return subnet


def _smallest(keys: Keys, counts: NDArray[np.int64]) -> Mask:
    """A mask of the `counts[i]` smallest keys of each row; keys of one row serve all counts."""
    if len(keys) == 1:
        ranks = np.argsort(np.argsort(keys[0], kind="stable"), kind="stable")
        return ranks < counts[:, None]
    mask = np.zeros(keys.shape, np.bool_)
    for row, key, count in zip(mask, keys, counts, strict=True):
        row[np.argpartition(key, count - 1)[:count]] = True
    return mask
