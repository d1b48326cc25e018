"""The four search spaces: how subnets are sampled, mutated and recombined.

Granularity: coarse keeps the first n of an order, fine any set. Sharing: uniform keeps the same
ranks in every layer, layerwise each layer its own. All four speak of masks in the order's ranks;
only the results are masks over the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.errors import UserError
from evo.genome import SPACES
from evo.genome.bins import Bin
from evo.genome.cost import Architecture
from evo.genome.fit_to_bin import Counts, WidthPlan, cost_of, fit, on_grid
from evo.genome.operators.crossover import crossed
from evo.genome.operators.mutation import mutated
from evo.genome.operators.rank_genes import Genes, Keys
from evo.genome.ranking import Order
from evo.genome.shape_tables import check_reachable, depths, drawn
from evo.genome.subnet import Mask, Subnet, kept_by_row
from evo.genome.width_limits import NO_LIMITS, WidthLimits

Indices = NDArray[np.integer]

DRAWS = 128
"""Plans that `sample` draws at once, to keep the first in the bin: its shapes are then distributed
as by rejection sampling, wherever one of so many is in the bin."""

NEIGHBOURS = (-2.5, -0.5)
"""How far apart in the order two may be that trade places in a fine space's sample: a share of the
dimension, log10 of the least and of the most."""

CHANCE = 0.05
"""How much chance there is in what comes next where a width of a fine space's candidate grows or
shrinks; the rest is the order's."""

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
        limits: of the widths.

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
        limits: WidthLimits = NO_LIMITS,
    ) -> None:
        if name not in SPACES:
            raise UserError(f"unknown space {name!r}: the spaces are {', '.join(SPACES)}")
        self.name, self.architecture, self.order, self.bin = name, architecture, order, bin
        self.in_bin, self.limits = in_bin, limits
        self._drawn = self._landed = 0  # where proposals outside the bin are rejected
        self.fine = name.startswith("fine")
        self.uniform = name.endswith("uniform")
        check_reachable(architecture, bin, uniform=self.uniform, limits=limits)

    @property
    def by_head_size(self) -> dict[int | None, Space]:
        """The parts that this space consists of, each of one head size; None is the teacher's."""
        return {None: self}

    @property
    def depths(self) -> set[int]:
        """The numbers of layers that its candidates may keep."""
        return depths(self.architecture, self.bin, uniform=self.uniform, limits=self.limits)

    def sample(self, rng: Generator) -> Subnet:
        """A random subnet: a random shape, and in fine spaces a noisy prefix of the order."""
        return self._in_bin(lambda: self._random_genes(rng), rng)

    def mutate(self, parent: Subnet, rng: Generator) -> Subnet:
        """Change some dimensions of a subnet, by steps whose size is drawn anew each time."""
        return self.varied(parent, partial(mutated, sensitivity=self.order.sensitivity), rng)

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

    def prefix(self, plan: WidthPlan, rng: Generator) -> Subnet:
        """The subnet that keeps the first of the order, as many as a plan says; moved into the bin
        where it lies outside."""
        channels, groups, neurons = self._order_keys
        rows = 1 if self.uniform else self.architecture.dimensions.layers
        genes = Genes(plan, channels, groups.repeat(rows, axis=0), neurons.repeat(rows, axis=0))
        return self._in_bin(lambda: genes, rng)

    def _in_bin(self, propose: Callable[[], Genes], rng: Generator) -> Subnet:
        architecture, bin, limits = self.architecture, self.bin, self.limits
        if self.in_bin == "reject":
            for _ in range(REJECTIONS):
                genes = propose()
                grid = limits.grid(architecture)
                plan = on_grid(genes.plan, grid, rng, uniform=self.uniform)
                self._drawn += 1
                if cost_of(architecture, bin.cost, plan) in bin:
                    self._landed += 1
                    return self._subnet(replace(genes, plan=plan))
            raise UserError(
                f"{REJECTIONS:,} proposals in a row missed the bin {bin}, after {self._landed:,} "
                f"of {self._drawn:,} in all ({self._landed / self._drawn:.2g} of them) had hit it: "
                "use --in-bin fit, or a wider bin"
            )
        genes = propose()
        uniform = self.uniform
        fitted = fit(architecture, bin, genes.plan, rng, uniform=uniform, limits=limits)
        plan = fitted or drawn(architecture, bin, genes.plan, rng, uniform=uniform, limits=limits)
        return self._subnet(replace(genes, plan=plan))

    # Shapes

    def _random_genes(self, rng: Generator) -> Genes:
        full = self.architecture.dimensions
        draws = DRAWS if self.in_bin == "fit" else 1
        depth = self.order.layers
        if self.fine:
            depth = np.argsort(np.argsort(self._noisy(_fractions(depth), 1, rng)[0]))
        grid = self.limits.grid(self.architecture)
        layers, channels = (
            allowed.start + allowed.step * rng.integers(len(allowed), size=draws)
            for allowed in (grid.layers, grid.channels)
        )
        groups = self._random_widths(grid.groups, draws, rng)
        groups = np.minimum(groups, grid.groups_beside(channels)[:, None])
        neurons = self._random_widths(grid.neurons, draws, rng)
        kept = depth < layers[:, None]
        unit = self.bin.cost.unit_costs(self.architecture, channels)
        costs = unit.total(layers, (groups * kept).sum(1), (neurons * kept).sum(1))
        inside = (costs >= self.bin.low) & (costs <= self.bin.high)
        center = np.sqrt(float(self.bin.low) * self.bin.high)
        index = inside.argmax() if inside.any() else np.abs(np.log(costs / center)).argmin()
        plan = WidthPlan(
            int(layers[index]), int(channels[index]), groups[index], neurons[index], depth
        )
        keys = self._order_keys
        if not self.fine:
            return Genes(plan, *keys)
        rows = 1 if self.uniform else full.layers
        return Genes(
            plan,
            channels=self._noisy(keys[0], 1, rng)[0],
            groups=self._noisy(keys[1], rows, rng),
            neurons=self._noisy(keys[2], rows, rng),
        )

    def _random_widths(self, allowed: range, draws: int, rng: Generator) -> NDArray[np.int64]:
        """Widths of every layer, shape [draws, L]: a common one, and a spread around it; sensitive
        layers are the wider, by a power that is drawn from none to proportional."""
        layers, sensitivity = self.architecture.dimensions.layers, self.order.sensitivity
        steps = rng.integers(len(allowed), size=(draws, 1))
        if self.uniform:
            steps = np.repeat(steps, layers, axis=1)
        else:
            own = rng.integers(len(allowed), size=(draws, layers))
            widths = steps + rng.random((draws, 1)) * (own - steps)
            if sensitivity is not None:
                widths *= (sensitivity / sensitivity.mean()) ** rng.random((draws, 1))
            steps = np.clip(np.rint(widths), 0, len(allowed) - 1).astype(np.int64)
        return allowed.start + allowed.step * steps

    # Keys

    @cached_property
    def _order_keys(self) -> tuple[Keys, Keys, Keys]:
        """Keys that keep the first of the order; all layers alike, as keys are by rank."""
        full = self.architecture.dimensions
        return (
            _fractions(np.arange(full.channels)),
            _fractions(np.arange(full.groups))[None],
            _fractions(np.arange(full.neurons))[None],
        )

    @staticmethod
    def _noisy(keys: Keys, rows: int, rng: Generator) -> Keys:
        """Keys of a fine space's sample: the order, among neighbours a noisy one."""
        distance = np.float32(10 ** rng.uniform(*NEIGHBOURS))
        return keys + distance * rng.random((rows, keys.shape[-1]), np.float32)

    def _genes(self, parent: Subnet, rng: Generator) -> Genes:
        """A subnet's plan, and keys that keep what it keeps, then the best of the rest."""
        if not self.fine:
            return self._prefix_genes(parent)
        masks = self._by_rank(parent)
        rows = slice(None)
        if self.uniform:  # as the kept layers are; dropped ones need not be alike
            first = int(parent.layers.argmax())
            rows = slice(first, first + 1)
        masks = (masks[0], masks[1][rows], masks[2][rows])
        every = (self.architecture.dimensions.layers,)
        depth_keys = np.where(parent.layers, 0.0, 1.0) + self._tie_break(
            _fractions(self.order.layers), every, rng
        )
        plan = WidthPlan(
            layers=int(parent.layers.sum()),
            channels=int(parent.channels.sum()),
            groups=np.broadcast_to(kept_by_row(masks[1]), every),
            neurons=np.broadcast_to(kept_by_row(masks[2]), every),
            depth=np.argsort(np.argsort(depth_keys)),
        )
        keys = [
            self._tie_break(order, mask.shape, rng)
            for mask, order in zip(masks, self._order_keys, strict=True)
        ]
        for key, mask in zip(keys, masks, strict=True):
            key += ~mask
        return Genes(plan, *keys)

    @staticmethod
    def _tie_break(keys: Keys, shape: tuple[int, ...], rng: Generator) -> Keys:
        """Below a half: the order, among neighbours chance."""
        ties = rng.random(shape, np.float32)
        ties *= np.float32(0.49 * CHANCE)  # in place: these are large, and memory is slow
        ties += np.float32(0.49 * (1 - CHANCE)) * keys
        return ties

    def _prefix_genes(self, parent: Subnet) -> Genes:
        """The genes of a subnet of a coarse space: counts say it all."""
        groups, neurons = parent.kept_groups, parent.kept_neurons
        if self.uniform:  # as the kept layers are; dropped ones need not be alike
            first = int(parent.layers.argmax())
            groups = np.full_like(groups, groups[first])
            neurons = np.full_like(neurons, neurons[first])
        channels, layers = np.count_nonzero(parent.channels), np.count_nonzero(parent.layers)
        plan = WidthPlan(int(layers), int(channels), groups, neurons, self.order.layers)
        return Genes(plan, *self._order_keys)

    def _by_rank(self, subnet: Subnet) -> tuple[Mask, Mask, Mask]:
        channels = np.empty_like(subnet.channels)
        channels[self.order.channels] = subnet.channels
        groups, neurons = self._best_first
        return channels, subnet.groups.ravel()[groups], subnet.neurons.ravel()[neurons]

    @cached_property
    def _best_first(self) -> list[Indices]:
        """Flat indices into a mask that sort each row by rank, for groups and for neurons."""
        return [
            np.argsort(ranks, axis=1) + _row_starts(ranks)
            for ranks in (self.order.groups, self.order.neurons)
        ]

    # Masks

    def _subnet(self, genes: Genes) -> Subnet:
        plan = genes.plan
        subnet = Subnet(
            layers=plan.kept,
            channels=_smallest(genes.channels, plan.channels)[self.order.channels],
            groups=_frozen(self._kept(0, genes.groups, plan.groups)),
            neurons=_frozen(self._kept(1, genes.neurons, plan.neurons)),
        )
        assert self.bin.cost.of(self.architecture, subnet.widths) in self.bin
        return subnet

    def _kept(self, which: int, keys: Keys, counts: Counts) -> Mask:
        """The groups (0) or neurons (1) with the smallest keys of their layer."""
        ranks = self._ranks[which]
        if not self.fine:  # keys are the order's
            return ranks < counts[:, None].astype(ranks.dtype)
        if self.uniform:
            return _smallest(keys[0], int(counts[0]))[ranks]
        mask = np.stack([_smallest(key, int(n)) for key, n in zip(keys, counts, strict=True)])
        return mask.ravel()[self._flat_ranks[which]]

    @cached_property
    def _ranks(self) -> list[Indices]:
        """The ranks of groups and of neurons, in as few bytes as they fit in."""
        return [
            ranks.astype(np.min_scalar_type(ranks.shape[1]))
            for ranks in (self.order.groups, self.order.neurons)
        ]

    @cached_property
    def _flat_ranks(self) -> list[Indices]:
        """Flat indices into a mask by rank, for groups and for neurons."""
        return [ranks + _row_starts(ranks) for ranks in (self.order.groups, self.order.neurons)]


def _fractions(ranks: Indices) -> Keys:
    return (ranks / ranks.size).astype(np.float32)


def _frozen(mask: Mask) -> Mask:
    """Saves `Subnet` a copy."""
    mask.flags.writeable = False
    return mask


def _row_starts(matrix: Indices) -> Indices:
    """The flat index of each row's first entry, shape [rows, 1]."""
    rows, columns = matrix.shape
    return np.arange(0, rows * columns, columns)[:, None]


def _smallest(keys: Keys, count: int) -> Mask:
    """A mask of the `count` smallest keys; among equals, the first."""
    threshold = np.partition(keys, count - 1)[count - 1]
    mask = keys <= threshold
    excess = np.count_nonzero(mask) - count
    if excess:
        mask[np.flatnonzero(keys == threshold)[-excess:]] = False
    return mask
