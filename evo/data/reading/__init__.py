"""How text is read: settings that all commands which take a text have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal

from evo.errors import UserError

logger = logging.getLogger(__name__)

BAD_LINES = ("fail", "skip")
BEGINNINGS = ("none", "document", "block")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How documents are read.

    Attributes:
        text_field: field of a .jsonl's lines, or column of a .parquet or of a data set of the hub,
            that holds the text.
        on_bad_line: whether a line of a .jsonl, or a row of a .parquet or of a data set, in which
            no text can be read ends the command (fail), or is left out and counted (skip).
        bos: where the tokenizer's beginning-of-text token is put: nowhere; before each document; or
            first in each block, which then has one token of text less. A corpus of `evo prepare`
            is read as it was prepared, or in such blocks where it was prepared with none.

    Raises:
        UserError: a value that makes no sense.
    """

    text_field: str = "text"
    on_bad_line: Literal["fail", "skip"] = "fail"
    bos: Literal["none", "document", "block"] = "none"

    def __post_init__(self) -> None:
        if not self.text_field:
            raise UserError("--text-field '' names no field: give a name")
        for name, choices in (("on_bad_line", BAD_LINES), ("bos", BEGINNINGS)):
            if (value := getattr(self, name)) not in choices:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} {value}: give one of {', '.join(choices)}")

    @property
    def reading(self) -> Reading:
        """These settings alone, where they are part of others."""
        return Reading(**{each.name: getattr(self, each.name) for each in fields(Reading)})

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that are not the default, as plain values: part of what a text is known by.

        Where all are the default, a text is known by what it was before there were any.
        """
        return {
            each.name: value
            for each in fields(Reading)
            if (value := getattr(self, each.name)) != each.default
        }


PLAIN = Reading()
"""The defaults."""


@dataclass(frozen=True)
class BadLine:
    """A line, or a row, in which no text can be read.

    Attributes:
        message: what is wrong, and where; or what finds that out, as the number of a line takes
            reading up to it.
    """

    message: str | Callable[[], str]

    def describe(self) -> str:
        """What is wrong, and where."""
        return self.message if isinstance(self.message, str) else self.message()


@dataclass
class Skipped:
    """Bad lines of a source that were left out.

    Attributes:
        count: how many.
        first: what is wrong with the first, and where; empty where that is not known any more.
    """

    count: int = 0
    first: str = field(default="", compare=False)

    def add(self, line: BadLine) -> None:
        """Count a line."""
        self.count += 1
        self.first = self.first or line.describe()

    def tell(self, name: str) -> None:
        """Log how many there are in a source, where there are some."""
        if self.count:
            first = f", the first: {self.first}" if self.first else ""
            _tell_once(f"{name}: {self.count:,} bad lines are left out{first}")


@lru_cache  # a text is read again in every epoch
def _tell_once(message: str) -> None:
    logger.warning("%s", message)
