"""Where a search is: its best, its median, and what it has scored so far."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evo.search.history import Row


@dataclass(frozen=True)
class Progress:
    """Where a search is, after a generation.

    Attributes:
        generation: the last one that was completed.
        evaluations: candidates scored, in full or not.
        tokens: targets scored.
        best: fitness of the best candidate; None where all have failed.
        median: median fitness of the candidates scored in full, of the last generation that has
            any (others were scored on other text from one generation to the next).
        failed: candidates of the last generation that failed.
        screened: candidates of the last generation that were dropped at a rung.
    """

    generation: int
    evaluations: int
    tokens: int
    best: float | None
    median: float | None
    failed: int
    screened: int

    @classmethod
    def of(cls, rows: Sequence[Row], best: float | None) -> Progress:
        """The progress after the last generation of a history.

        Args:
            rows: every row of the completed generations, at least one.
            best: fitness of the best candidate.
        """
        last = max(row.generation for row in rows)
        statuses = Counter(row.status for row in rows if row.generation == last)
        full = [row for row in rows if row.status == "full"]
        newest = max((row.generation for row in full), default=None)
        fitness = [row.fitness for row in full if row.generation == newest]
        return cls(
            generation=last,
            evaluations=len(rows),
            tokens=sum(row.tokens for row in rows),
            best=best,
            median=statistics.median(fitness) if fitness else None,
            failed=statuses["failed"],
            screened=statuses["screened"],
        )
