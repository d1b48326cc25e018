"""All subnets of a space that lie in its bin, where they are few enough to list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, islice, product

import numpy as np

from evo.genome.shape_tables import count_shapes
from evo.genome.space import Space
from evo.genome.subnet import Subnet


def enumerate_space(space: Space, limit: int) -> dict[str, bytes] | None:
    """Every candidate of a space, in a fixed order, or None where there are more than `limit`.

    Returns:
        Packed genomes by id: a byte for eight entries of the masks, as there may be many.
    """
    for part in space.by_head_size.values():
        least = count_shapes(part.architecture, part.bin, uniform=True, limits=part.limits)
        if least.inside > limit:
            return None  # every space holds at least one candidate of each uniform shape
    found: dict[str, bytes] = {}
    every = (
        replace(subnet, head_size=size)
        for size, part in space.by_head_size.items()
        for subnet in _subnets(part)
    )
    for subnet in islice(every, limit + 1):
        found[subnet.id] = subnet.pack()
    return found if len(found) <= limit else None


def _subnets(space: Space) -> Iterator[Subnet]:
    grid = space.limits.grid(space.architecture)
    for n in grid.layers:
        for channels in grid.channels:
            for groups, neurons in _widths(space, n, channels):
                yield from _choices(space, n, channels, groups, neurons)


def _widths(
    space: Space, layers: int, channels: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The groups and neurons of each kept layer with which the cost lies in the bin."""
    grid = space.limits.grid(space.architecture)
    unit = space.bin.cost.unit_costs(space.architecture, channels)
    beside = [group for group in grid.groups if group <= grid.groups_beside(channels)]
    if space.uniform:
        for group, neuron in product(beside, grid.neurons):
            if unit.total(layers, layers * group, layers * neuron) in space.bin:
                yield (group,) * layers, (neuron,) * layers
        return
    least, most = (unit.group * beside[end] + unit.neuron * grid.neurons[end] for end in (0, -1))

    def extend(chosen: tuple[tuple[int, int], ...], spent: int) -> Iterator[tuple]:
        left = layers - len(chosen)
        if spent + left * least > space.bin.high or spent + left * most < space.bin.low:
            return
        if not left:
            yield tuple(g for g, _ in chosen), tuple(f for _, f in chosen)
            return
        for group, neuron in product(beside, grid.neurons):
            cost = unit.group * group + unit.neuron * neuron
            yield from extend((*chosen, (group, neuron)), spent + cost)

    yield from extend((), unit.total(layers, 0, 0))


def _choices(
    space: Space, layers: int, channels: int, groups: tuple[int, ...], neurons: tuple[int, ...]
) -> Iterator[Subnet]:
    """Every subnet of these widths: one in a coarse space, all index sets in a fine one."""
    full, order = space.architecture.dimensions, space.order

    def sets(size: int, count: int) -> Iterator[tuple[int, ...]]:
        return combinations(range(size), count) if space.fine else iter([tuple(range(count))])

    ways = 1 if space.uniform else layers
    for kept, columns in product(sets(full.layers, layers), sets(full.channels, channels)):
        depths = [np.flatnonzero(order.layers == rank)[0] for rank in kept]
        per_layer = [
            product(sets(full.groups, groups[i]), sets(full.neurons, neurons[i]))
            for i in range(ways)
        ]
        for picked in product(*per_layer):
            group_mask = np.zeros((full.layers, full.groups), np.bool_)
            neuron_mask = np.zeros((full.layers, full.neurons), np.bool_)
            group_mask[:, 0] = neuron_mask[:, 0] = True  # what a dropped layer keeps is not seen
            for depth, (group, neuron) in zip(
                sorted(depths), picked * (layers // ways), strict=True
            ):
                group_mask[depth] = np.isin(order.groups[depth], group)
                neuron_mask[depth] = np.isin(order.neurons[depth], neuron)
            yield Subnet(
                layers=np.isin(np.arange(full.layers), depths),
                channels=np.isin(order.channels, columns),
                groups=group_mask,
                neurons=neuron_mask,
            )
