"""Bins: the range of a cost that a candidate must fall in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from evo.errors import UserError
from evo.genome.cost import PARAMETERS, SECOND, Cost
from evo.quantities import COUNTS, NUMBER, suffixes

TOLERANCE = 0.05
"""A single value means itself plus or minus this share."""

_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS = {
    "parameters": dict(COUNTS),
    "flops": _DECIMAL,
    "kv-cache": {f"{prefix}B": factor for prefix, factor in _DECIMAL.items()}
    | {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "latency": {"us": SECOND // 10**6, "ms": SECOND // 10**3, "s": SECOND},
}
"""How the sizes of a cost are written, case aside."""

_EXAMPLES = {
    "parameters": ("385M-426M", "400M"),
    "flops": ("1.5G-2G", "800M"),
    "kv-cache": ("10MB-12MB", "16MiB"),
    "latency": ("1.5ms-2ms", "800us"),
}


@dataclass(frozen=True)
class Bin:
    """A range of a cost, both ends included.

    Attributes:
        name: as the user wrote it, of a model's the last part; part of a search's name and so of
            a directory's.
        low: the least.
        high: the most.
        cost: what it is a range of.

    Raises:
        UserError: an empty range.
    """

    name: str
    low: int
    high: int
    cost: Cost = PARAMETERS

    def __post_init__(self) -> None:
        shown = self.cost.shown(self.low), self.cost.shown(self.high)
        if not 0 < self.low <= self.high:
            raise UserError(f"the bin {self.name} is empty: from {shown[0]} to {shown[1]}")

    def __contains__(self, cost: int) -> bool:
        return self.low <= cost <= self.high

    def __str__(self) -> str:
        low, high = self.cost.shown(self.low), self.cost.shown(self.high)
        return f"{self.name} ({low} to {high} {self.cost.unit})"


def parse_bin(
    text: str, teacher: int, named: Callable[[str], int | None], cost: Cost = PARAMETERS
) -> Bin:
    """A bin as the user writes it.

    Args:
        text: `385M-426M` (a range), `400M` or `40%` (of the teacher; a single value means plus or
            minus 5% of itself), or a model's name. The units are those of the cost, see `UNITS`;
            a range's first number may leave its unit to the second.
        teacher: the teacher's cost.
        named: the cost of a named model, or None where the name is unknown.
        cost: what the bin is a range of.

    Raises:
        UserError: the text is none of these.
    """
    text = "".join(text.split())
    units = {unit.upper(): factor for unit, factor in UNITS[cost.kind].items()}
    number = f"({NUMBER}){suffixes(units)}"
    first = f"({NUMBER})([A-Z]*)"
    match = re.fullmatch(rf"{first}-{number}", text, re.IGNORECASE)
    if match and (match[2] or match[4]).upper() in units:
        low, high = (
            float(value) * units[unit.upper()]
            for value, unit in ((match[1], match[2] or match[4]), (match[3], match[4]))
        )
        return Bin(text, round(low), round(high), cost)
    if match := re.fullmatch(f"({NUMBER})%", text):
        center = float(match[1]) / 100 * teacher
    elif match := re.fullmatch(number, text, re.IGNORECASE):
        center = float(match[1]) * units[match[2].upper()]
    elif (model := named(text)) is not None:
        center = model
    else:
        span, size = _EXAMPLES[cost.kind]
        raise UserError(
            f"unknown bin {text!r}: a bin of {cost.unit} is a range like {span}, a size like "
            f"{size}, a share of the teacher like 40%, or the name of a litgpt model"
        )
    name = text.rpartition("/")[2]
    return Bin(name, round(center * (1 - TOLERANCE)), round(center * (1 + TOLERANCE)), cost)
