"""Where a search is: its best, its median, and what it has scored so far."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

import pandas as pd

COLUMNS = ("candidate", "generation", "status", "fitness", "tokens")
"""What a search is made again of, besides its state."""


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
    def of(cls, history: pd.DataFrame, best: float | None) -> Progress:
        """The progress after the last generation of a history.

        Args:
            history: every row of the completed generations, at least one, with `COLUMNS`.
            best: fitness of the best candidate.
        """
        last = int(history["generation"].iloc[-1])
        statuses = Counter(history["status"][history["generation"] == last])
        full = history[history["status"] == "full"]
        newest = full["fitness"][full["generation"] == full["generation"].max()]
        return cls(
            generation=last,
            evaluations=len(history),
            tokens=int(history["tokens"].sum()),
            best=best,
            median=statistics.median(newest) if len(newest) else None,
            failed=statuses["failed"],
            screened=statuses["screened"],
        )

    @classmethod
    def after(
        cls, before: Progress | None, generation: pd.DataFrame, best: float | None
    ) -> Progress:
        """The progress after one more generation.

        Args:
            before: after the generation before; None where this is the first.
            generation: the rows of this one.
            best: fitness of the best candidate so far.
        """
        now = cls.of(generation, best)
        if before is None:
            return now
        return cls(
            generation=now.generation,
            evaluations=before.evaluations + now.evaluations,
            tokens=before.tokens + now.tokens,
            best=best,
            median=before.median if now.median is None else now.median,
            failed=now.failed,
            screened=now.screened,
        )
