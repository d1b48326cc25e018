"""Bins: the range of a cost that a candidate must fall in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from evo.errors import UserError

TOLERANCE = 0.05
"""A single value means itself plus or minus this share."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_NUMBER = r"(\d+(?:\.\d+)?)([KMB]?)"


@dataclass(frozen=True)
class Bin:
    """A range of parameters, both ends included.

    Attributes:
        name: as the user wrote it, of a model's the last part; part of a search's name and so of
            a directory's.
        low: the fewest parameters.
        high: the most parameters.

    Raises:
        UserError: an empty range.
    """

    name: str
    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise UserError(f"the bin {self.name} is empty: from {self.low:,} to {self.high:,}")

    def __contains__(self, cost: int) -> bool:
        return self.low <= cost <= self.high

    def __str__(self) -> str:
        return f"{self.name} ({self.low:,} to {self.high:,} parameters)"


def parse_bin(text: str, teacher: int, model_parameters: Callable[[str], int | None]) -> Bin:
    """A bin as the user writes it.

    Args:
        text: `385M-426M` (a range), `400M` or `40%` (of the teacher; a single value means plus or
            minus 5% of itself), or a model's name.
        teacher: the teacher's parameters.
        model_parameters: the parameters of a named model, or None where the name is unknown.

    Raises:
        UserError: the text is none of these.
    """
    text = "".join(text.split())
    if match := re.fullmatch(rf"{_NUMBER}-{_NUMBER}", text, re.IGNORECASE):
        low, low_unit, high, high_unit = match.groups()
        return Bin(text, round(_value(low, low_unit or high_unit)), round(_value(high, high_unit)))
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)%", text):
        center = float(match[1]) / 100 * teacher
    elif match := re.fullmatch(_NUMBER, text, re.IGNORECASE):
        center = _value(match[1], match[2])
    elif (named := model_parameters(text)) is not None:
        center = named
    else:
        raise UserError(
            f"unknown bin {text!r}: a bin is a range like 385M-426M, a size like 400M, "
            "a share of the teacher like 40%, or the name of a litgpt model"
        )
    name = text.rpartition("/")[2]
    return Bin(name, round(center * (1 - TOLERANCE)), round(center * (1 + TOLERANCE)))


def _value(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit.upper()]
