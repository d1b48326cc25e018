"""Numbers with suffixes, as users write them: 385M parameters, 10B tokens, 16MiB."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

COUNTS: Mapping[str, int] = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
"""The suffixes of numbers of parameters and of tokens."""

LARGEST = 2**63 - 1

NUMBER = r"\d+(?:\.\d+)?"


def suffixes(units: Mapping[str, int]) -> str:
    """A regular expression of one group: a number's suffix, case aside.

    Args:
        units: factors by suffix.
    """
    return f"({'|'.join(sorted(map(str.upper, units), key=len, reverse=True))})"


def parse_count(value: object) -> int:
    """A whole number: one as it is, or a text such as `1500000`, `1_500_000` or `1.5M`.

    Args:
        value: an integer, or a text.

    Raises:
        ValueError: it is none, or does not fit 64 bits.
    """
    number = _number(value)
    if number is None or not -LARGEST <= number <= LARGEST or number != int(number):
        raise ValueError(f"{value!r} is no whole number of 64 bits")
    return int(number)


def _number(value: object) -> int | Decimal | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = "".join(value.split()).upper() if isinstance(value, str) else ""
    if re.fullmatch(r"[+-]?\d+(_\d+)*", text, re.ASCII):
        return int(text)
    match = re.fullmatch(rf"({NUMBER}){suffixes(COUNTS)}", text, re.ASCII)
    return Decimal(match[1]) * COUNTS[match[2]] if match else None


Count = Annotated[int, parse_count]
"""The type of a setting that counts, written 10000000 or 10M."""
