"""Which widths a search may use: floors, and multiples that hardware likes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from evo.cost import Architecture
from evo.errors import UserError
from evo.subnet import Dimensions

DIMENSIONS = ("layers", "channels", "groups", "neurons")

_ONES = Dimensions(1, 1, 1, 1)


@dataclass(frozen=True)
class Grid:
    """The widths that subnets of a teacher may have, of every dimension in equal steps.

    Attributes:
        layers: numbers of kept layers.
        channels: of kept channels.
        groups: of kept query groups of a layer.
        neurons: of kept neurons of a layer.
    """

    layers: range
    channels: range
    groups: range
    neurons: range


@dataclass(frozen=True)
class Limits:
    """What the user allows.

    Attributes:
        multiple_of: each width is a multiple of this; the teacher's own is allowed only where it
            is one.
        floors: the least of each.
    """

    multiple_of: Dimensions = _ONES
    floors: Dimensions = _ONES

    @classmethod
    def parse(cls, multiple_of: Sequence[str], floors: Sequence[str]) -> Limits:
        """Limits as the user writes them: `channels=64 neurons=64`; what is not named is 1.

        Raises:
            UserError: another dimension, or no whole number above 0.
        """
        return cls(_parse("--multiple-of", multiple_of), _parse("--floors", floors))

    def grid(self, architecture: Architecture) -> Grid:
        """The widths that remain; one head's worth of channels is the least.

        Raises:
            UserError: none remain in some dimension.
        """
        return _grid(self, architecture)


NO_LIMITS = Limits()


@lru_cache(maxsize=64)
def _grid(limits: Limits, architecture: Architecture) -> Grid:
    ranges: dict[str, range] = {}
    for name in DIMENSIONS:
        most = getattr(architecture.dimensions, name)
        multiple, floor = getattr(limits.multiple_of, name), getattr(limits.floors, name)
        head = min(architecture.head_size, most) if name == "channels" else 1
        lowest = -(-max(floor, head) // multiple) * multiple
        if lowest > most:
            raise UserError(
                f"the teacher has {most} {name}, of which no multiple of {multiple} is at least "
                f"{max(floor, head)}: lower --multiple-of or --floors"
            )
        ranges[name] = range(lowest, most + 1, multiple)
    return Grid(**ranges)


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
