"""`evo jobs`: the table of a cluster's jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evo.commands.jobs.config import JobsConfig
from evo.errors import UserError
from evo.jobs.job import Attempt

if TYPE_CHECKING:
    from evo.commands.search.progress_line import ProgressLine
    from evo.jobs.cluster import Cluster

COLUMNS = ("job", "command", "state", "best", "generation", "tokens", "GPU-hours", "left", "age")


def run(config: JobsConfig) -> None:
    """Print a row for each job, and one for each of its searches.

    Raises:
        UserError: the cluster does not answer.
    """
    from rich.table import Table

    from evo.console import result_console
    from evo.jobs.cluster import Cluster

    cluster = Cluster(config.address)
    jobs = cluster.jobs()
    if not jobs:
        print(f"{cluster.address} has no jobs: `evo submit -- search ...` makes one")
        return
    table = Table()
    for column in COLUMNS:
        left = column in ("job", "command", "state", "best")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for attempts in jobs.values():
        for row in rows(attempts[-1], searches_of(cluster, attempts)):
            table.add_row(*row)
    result_console().print(table)


def searches_of(cluster: Cluster, attempts: Sequence[Attempt]) -> list[ProgressLine]:
    """Where the searches of a job are, from what its attempts have said, the last one first.

    An attempt that has said nothing yet, or whose log went with its node, says nothing.
    """
    from evo.commands.search.progress_line import read_lines

    for attempt in reversed(attempts):
        try:
            found = read_lines(cluster.log(attempt))
        except UserError:
            continue
        if found:
            return found
    return []


def rows(last: Attempt, searches: Sequence[ProgressLine]) -> list[tuple[str, ...]]:
    """The rows of a job: its own, and one for each search after the first."""
    from evo.progress import duration

    tries = f" (attempt {last.number})" if last.number > 1 else ""
    age = duration(time.time() - last.began) if last.began else ""
    head = (last.job, last.command, last.state + tries)
    if not searches:
        return [(*head, "", "", "", "", "", age)]
    hours = f"{max(one.gpu_hours for one in searches):.2f}"
    found: list[tuple[str, ...]] = []
    for place, one in enumerate(searches):
        first = head if place == 0 else ("", "", "")
        left = one.ended or (one.left if last.is_open else "")
        cells = (f"{one.search}: {one.best}", one.generation, f"{one.tokens:,}")
        found.append((*first, *cells, hours if place == 0 else "", left, age if place == 0 else ""))
    return found
