"""`log.jsonl`: one JSON object per line, in the order of the steps.

A number that is not finite, such as the perplexity of a run that diverged, is null there, and NaN
where a line is read.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from evo.storage.files import output_errors, write_whole
from evo.storage.records import Amount, Count, Positive, reading
from evo.storage.records import parse as parse_json
from evo.storage.strict_json import dumps

LOG = "log.jsonl"

MEASURED = {
    "seconds",
    "data_seconds",
    "tokens_per_second",
    "mfu",
    "device_flops_per_second",
}
"""These columns depend on the machine; all others are the same for the same run on any."""


class LogRow(TypedDict):
    """A row as its readers take it; it has other columns, too."""

    step: Count
    tokens: NotRequired[Count]
    flops: NotRequired[Amount]
    seconds: NotRequired[Amount]
    loss: NotRequired[float | None]
    validation_perplexity: NotRequired[Positive | None]
    skipped: NotRequired[Count]


def append(run: Path, row: dict[str, Any]) -> None:
    """Add a line to a run's log."""
    with output_errors(run / LOG), (run / LOG).open("a", encoding="utf-8") as file:
        file.write(dumps(row) + "\n")


def secure(run: Path) -> None:
    """Make sure that what was logged outlasts a power failure."""
    with output_errors(run / LOG), (run / LOG).open("rb") as file:
        os.fsync(file.fileno())


def cut_back(run: Path, step: int) -> None:
    """Drop what was logged after a step, a half-written line included; -1 drops all."""
    kept = [row for row in rows(run) if row["step"] <= step]
    write_whole(run / LOG, "".join(dumps(row) + "\n" for row in kept))


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; a last line that is half-written is left out.

    Raises:
        UserError: a line is no row.
    """
    path = run / LOG
    if not path.is_file():
        return []
    complete: list[dict[str, Any]] = []
    with reading(path):
        content = path.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        complete.append(parse(line, path, number))
    return complete


def last_step(run: Path) -> int:
    """The last step in a run's log; -1 while there is none."""
    return max((row["step"] for row in rows(run)), default=-1)


def parse(line: str | bytes, path: Path, number: int) -> dict[str, Any]:
    """The row that a line of a log holds.

    The message names the file and the line's number.

    Raises:
        UserError: the line is none.
    """
    with reading(path, f"line {number} is no row of a log"):
        row = parse_json(line, LogRow)
    return {name: math.nan if value is None else value for name, value in row.items()}
