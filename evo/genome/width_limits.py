"""Which widths a search may use: floors, and multiples that hardware likes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from evo.errors import UserError
from evo.genome.cost import Architecture
from evo.genome.subnet import Dimensions

DIMENSIONS = ("layers", "channels", "groups", "neurons")

_ONES = Dimensions(1, 1, 1, 1)


@dataclass(frozen=True)
class WidthGrid:
    """The widths that subnets of a teacher may have, of every dimension in equal steps.

    Attributes:
        layers: numbers of kept layers.
        channels: of kept channels.
        groups: of kept query groups of a layer.
        neurons: of kept neurons of a layer.
        channels_per_group: the least channels for each query group; 0 where one has nothing to do
            with the other.
    """

    layers: range
    channels: range
    groups: range
    neurons: range
    channels_per_group: int = 0

    def groups_beside(self, channels: Any) -> Any:
        """The most query groups beside so many channels; of integers or of arrays of them."""
        if not self.channels_per_group:
            return self.groups[-1] + 0 * channels
        steps = (channels // self.channels_per_group - self.groups.start) // self.groups.step
        return self.groups.start + self.groups.step * np.minimum(steps, len(self.groups) - 1)

    def channels_beside(self, groups: int) -> int:
        """The fewest channels beside so many query groups."""
        least, step = self.channels.start, self.channels.step
        return least + step * max(0, -(-(groups * self.channels_per_group - least) // step))


@dataclass(frozen=True)
class WidthLimits:
    """What the user allows.

    Attributes:
        multiple_of: each width is a multiple of this; the teacher's own is allowed only where it
            is one.
        floors: the least of each.
        whole_heads: channels are heads' worth of channels, and at least as many as all the heads
            of a layer have, so that the heads that are missing can be filled in with zeros.
    """

    multiple_of: Dimensions = _ONES
    floors: Dimensions = _ONES
    whole_heads: bool = False

    @classmethod
    def parse(cls, multiple_of: Sequence[str], floors: Sequence[str]) -> WidthLimits:
        """WidthLimits as the user writes them: `channels=64 neurons=64`; what is not named is 1.

        Raises:
            UserError: another dimension, or no whole number above 0.
        """
        return cls(_parse("--multiple-of", multiple_of), _parse("--floors", floors))

    def grid(self, architecture: Architecture) -> WidthGrid:
        """The widths that remain; one head's worth of channels is the least.

        Raises:
            UserError: none remain in some dimension.
        """
        return _grid(self, architecture)


NO_LIMITS = WidthLimits()


@lru_cache(maxsize=64)
def _grid(limits: WidthLimits, architecture: Architecture) -> WidthGrid:
    ranges: dict[str, range] = {}
    for name in DIMENSIONS:
        most = getattr(architecture.dimensions, name)
        multiple, floor = getattr(limits.multiple_of, name), getattr(limits.floors, name)
        head = min(architecture.head_size, most) if name == "channels" else 1
        if name == "channels" and limits.whole_heads:
            multiple = math.lcm(multiple, architecture.head_size)
        lowest = -(-max(floor, head) // multiple) * multiple
        if lowest > most:
            raise UserError(
                f"the teacher has {most} {name}, of which no multiple of {multiple} is at least "
                f"{max(floor, head)}: lower --multiple-of or --floors"
            )
        ranges[name] = range(lowest, most + 1, multiple)
    grid = WidthGrid(ranges["layers"], ranges["channels"], ranges["groups"], ranges["neurons"])
    if not limits.whole_heads:
        return grid
    each = architecture.head_size * architecture.queries_per_group
    channels, groups = grid.channels, grid.groups
    groups = range(groups.start, min(groups[-1], channels[-1] // each) + 1, groups.step)
    if not groups:
        raise UserError(
            f"{grid.groups.start} query groups have {grid.groups.start * each} channels, "
            f"but the residual stream has {channels[-1]} at most: lower --floors or --multiple-of"
        )
    least = -(-groups.start * each // channels.step) * channels.step
    channels = range(max(channels.start, least), channels[-1] + 1, channels.step)
    return replace(grid, channels=channels, groups=groups, channels_per_group=each)


def _parse(flag: str, texts: Sequence[str]) -> Dimensions:
    values = _ONES
    for text in texts:
        name, _, number = text.partition("=")
        if name not in DIMENSIONS or not number.isdecimal() or int(number) < 1:
            raise UserError(
                f"{flag} {text}: give DIMENSION=NUMBER, such as channels=64; the dimensions are "
                f"{', '.join(DIMENSIONS)}"
            )
        values = replace(values, **{name: int(number)})
    return values
