"""The line that a search logs for each generation, and how it is read again from a job's log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evo.progress import duration
from evo.search.progress import Progress


@dataclass(frozen=True)
class ProgressLine:
    """What is known of a search from its log.

    Attributes:
        search: SPACE@BIN.
        generation: the last one that was completed, of how many: `3/100`.
        best: fitness of the best candidate, as it is written.
        evaluations: candidates scored.
        tokens: targets scored.
        gpu_hours: that the run has taken by then, over all its starts.
        left: estimated time left, as it is written; empty where the search has ended.
        ended: why the search has ended; empty where it has not.
    """

    search: str
    generation: str
    best: str
    evaluations: int
    tokens: int
    gpu_hours: float
    left: str
    ended: str


LINE = re.compile(
    r"^(?P<search>\S+@\S+)  generation (?P<generation>\d+/\d+)  best (?P<best>.+?)  median .*?"
    r"  evaluations (?P<evaluations>\d+)  tokens (?P<tokens>[\d,]+)  units/s [\d.]+"
    r"  GPU-hours (?P<gpu_hours>[\d.]+)(?:  left (?P<left>.+?))?(?:  screened \d+)?"
    r"(?:  failed \d+)?(?:  ended: (?P<ended>.+))?$",
    re.MULTILINE,
)


def format_line(
    search: str,
    progress: Progress,
    *,
    generations: int,
    best: str,
    median: str,
    units_per_second: float,
    gpu_hours: float,
    seconds_left: float | None,
    ended: str | None,
) -> str:
    """The line of a generation that has been completed.

    Args:
        search: SPACE@BIN.
        progress: after the generation.
        generations: of the budget.
        best: the best fitness, in words.
        median: likewise.
        units_per_second: scored by the pool of late.
        gpu_hours: that the run has taken.
        seconds_left: estimated; None where nothing is known yet.
        ended: why the search has ended; None where it has not.
    """
    line = (
        f"{search}  generation {progress.generation}/{generations}  best {best}  median {median}  "
        f"evaluations {progress.evaluations}  tokens {progress.tokens:,}  "
        f"units/s {units_per_second:.1f}  GPU-hours {gpu_hours:.2f}"
    )
    if not ended:
        line += f"  left {duration(seconds_left)}"
    if progress.screened:
        line += f"  screened {progress.screened}"
    if progress.failed:
        line += f"  failed {progress.failed}"
    return f"{line}  ended: {ended}" if ended else line


def read_lines(log: str) -> list[ProgressLine]:
    """Where each search of a log is, in the order in which the log first names them."""
    last: dict[str, re.Match[str]] = {}
    for found in LINE.finditer(log):
        last[found["search"]] = found
    return [
        ProgressLine(
            search=found["search"],
            generation=found["generation"],
            best=found["best"],
            evaluations=int(found["evaluations"]),
            tokens=int(found["tokens"].replace(",", "")),
            gpu_hours=float(found["gpu_hours"]),
            left=found["left"] or "",
            ended=found["ended"] or "",
        )
        for found in last.values()
    ]
