"""The progress of searches: a live table on a terminal, one line per generation in a log."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from evo.algorithms.settings import Budget
from evo.commands.search.progress_line import format_line
from evo.progress import duration, seconds_left
from evo.search.history.row import perplexity
from evo.search.search import Progress
from evo.search.spent import Spent

logger = logging.getLogger("evo.search")


class SearchDisplay:
    """Shows searches while they run; a context manager.

    The live table is drawn where the console is a terminal. Where fitness is an NLL, its perplexity
    is shown too.
    """

    def __init__(
        self,
        names: list[str],
        budget: Budget,
        spent: Spent,
        console: Console,
        *,
        is_nll: bool = True,
    ) -> None:
        self._budget, self._spent, self._is_nll = budget, spent, is_nll
        self._rows: dict[str, tuple[Progress | None, str]] = dict.fromkeys(
            names, (None, "starting")
        )
        self._first: dict[str, tuple[int, float]] = {}
        self._rate = 0.0
        self._workers = 0
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._table)
        self._is_live = console.is_terminal

    def __enter__(self) -> SearchDisplay:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def pool(self, workers: int, units_per_second: float) -> None:
        """Take note of the number of workers, and of their pace."""
        self._workers, self._rate = workers, units_per_second

    def generation(self, name: str, progress: Progress, ended: str | None) -> float | None:
        """Show a completed generation of a search.

        Returns:
            The seconds that it may still take; None where nothing is known.
        """
        self._first.setdefault(name, (progress.evaluations, time.monotonic()))
        left = self._seconds_left(name, progress)
        self._rows[name] = (progress, ended or "")
        line = format_line(
            name,
            progress,
            generations=self._budget.generations,
            best=self._fitness(progress.best),
            median=self._fitness(progress.median),
            units_per_second=self._rate,
            gpu_hours=self._spent.gpu_seconds / 3600,
            seconds_left=left,
            ended=ended,
        )
        # On a terminal the table says it all; the log file gets the line either way.
        logger.log(logging.DEBUG if self._is_live else logging.INFO, line)
        return left

    def _seconds_left(self, name: str, progress: Progress) -> float | None:
        evaluations, began = self._first[name]
        rest = self._budget.population * (self._budget.generations + 1) - progress.evaluations
        return seconds_left(time.monotonic() - began, progress.evaluations - evaluations, rest)

    def _table(self) -> Table:
        table = Table(title=f"{self._workers} workers, {self._rate:.1f} units/s", title_style="dim")
        for column in ("search", "generation", "evaluations", "best", "median", "left"):
            table.add_column(column, justify="left" if column == "search" else "right")
        for name, (progress, ended) in self._rows.items():
            if progress is None:
                table.add_row(name, "", "", "", "", ended)
                continue
            left = ended or duration(self._seconds_left(name, progress))
            table.add_row(
                name,
                f"{progress.generation}/{self._budget.generations}",
                str(progress.evaluations),
                self._fitness(progress.best),
                self._fitness(progress.median),
                left,
            )
        return table

    def _fitness(self, fitness: float | None) -> str:
        if fitness is None:
            return "none"
        return f"{fitness:.4f}" + (
            f" (perplexity {perplexity(fitness):.4g})" if self._is_nll else ""
        )
