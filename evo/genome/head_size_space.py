"""A search space in which heads may be of several sizes, one for all layers of a candidate.

It consists of a space for each size: a size changes what groups and layers cost, and how few
channels there may be, and nothing else that a space needs to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from numpy.random import Generator

from evo.errors import UserError
from evo.genome.bins import Bin
from evo.genome.cost import Architecture
from evo.genome.fit_to_bin import WidthPlan
from evo.genome.ranking import Order
from evo.genome.space import Operator, Space
from evo.genome.subnet import Subnet
from evo.genome.width_limits import NO_LIMITS, WidthLimits

RESIZED = 0.2
"""Share of mutations that also change the head size."""


class HeadSizeSpace(Space):
    """The subnets of one kind, with heads of one of several sizes, that lie in one bin.

    Args:
        name, architecture, order, bin, in_bin, limits: as of a `Space`. Under `reject` the head
            size is drawn once, the rest until it lands.
        head_sizes: those to choose from; one with which the bin cannot be reached is left out.

    Raises:
        UserError: an unknown space, or a bin that it cannot reach with any of the sizes.
    """

    def __init__(
        self,
        name: str,
        architecture: Architecture,
        order: Order,
        bin: Bin,
        in_bin: Literal["fit", "reject"] = "fit",
        limits: WidthLimits = NO_LIMITS,
        *,
        head_sizes: Sequence[int],
    ) -> None:
        self._parts: dict[int, Space] = {}
        refusals: list[UserError] = []
        for size in sorted(head_sizes):
            resized = replace(architecture, head_size=size)
            try:
                self._parts[size] = Space(name, resized, order, bin, in_bin, limits)
            except UserError as error:
                refusals.append(error)
        if not self._parts:
            raise UserError(f"with heads of {max(head_sizes)} channels, {refusals[-1]}")
        reaching = self._parts[max(self._parts)].architecture
        super().__init__(name, reaching, order, bin, in_bin, limits)
        self.architecture = architecture

    @property
    def by_head_size(self) -> dict[int | None, Space]:
        """The parts that this space consists of, each of one head size; None is the teacher's."""
        return {self._named(size): part for size, part in self._parts.items()}

    @property
    def depths(self) -> set[int]:
        """The numbers of layers that candidates with heads of any of the sizes may keep."""
        return set().union(*(part.depths for part in self._parts.values()))

    def sample(self, rng: Generator) -> Subnet:
        """A random head size, and a random subnet with it."""
        size = self._other(None, rng)
        return self._sized(self._parts[size].sample(rng), size)

    def mutate(self, parent: Subnet, rng: Generator) -> Subnet:
        """Change some dimensions, and now and then the head size too."""
        size = self._size(parent)
        if rng.random() < RESIZED and len(self._parts) > 1:
            size = self._other(size, rng)
        return self._sized(self._parts[size].mutate(parent, rng), size)

    def prefix(self, plan: WidthPlan, rng: Generator) -> Subnet:
        """With heads of the teacher's size, or of the nearest there is."""
        size = min(self._parts, key=lambda size: abs(size - self.architecture.head_size))
        return self._sized(self._parts[size].prefix(plan, rng), size)

    def varied(self, parent: Subnet, operator: Operator, rng: Generator) -> Subnet:
        """What an operator makes of the parent's masks; its head size stays."""
        size = self._size(parent)
        return self._sized(self._parts[size].varied(parent, operator, rng), size)

    def crossover(self, first: Subnet, second: Subnet, rng: Generator) -> Subnet:
        """The head size of either parent, and the rest as any space does it."""
        size = self._size(first if rng.random() < 0.5 else second)
        return self._sized(self._parts[size].crossover(first, second, rng), size)

    def _size(self, subnet: Subnet) -> int:
        """The size of a subnet's heads, or, where it is from another space, the nearest."""
        size = subnet.head_size or self.architecture.head_size
        return min(self._parts, key=lambda one: abs(one - size))

    def _other(self, size: int | None, rng: Generator) -> int:
        sizes = [other for other in self._parts if other != size]
        return sizes[rng.integers(len(sizes))]

    def _named(self, size: int) -> int | None:
        return None if size == self.architecture.head_size else size

    def _sized(self, subnet: Subnet, size: int) -> Subnet:
        return replace(subnet, head_size=self._named(size))
