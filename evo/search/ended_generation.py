"""What came of a generation, for whoever watches the search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from evo.algorithms.base import Scored
from evo.search.generation import Generation
from evo.search.history.row import Row


@dataclass(frozen=True)
class EndedGeneration:
    """What came of a generation.

    Attributes:
        rows: of its candidates.
        screened: how many were dropped, by the number of the stage, from 1.
        accepted: how many are elites after it, by their operator.
    """

    rows: list[Row]
    screened: Counter[int]
    accepted: Counter[str]

    @classmethod
    def of(
        cls, generation: Generation, rows: list[Row], elites: Iterable[Scored]
    ) -> EndedGeneration:
        """What came of it.

        Args:
            generation: the generation.
            rows: of its candidates.
            elites: of the search after it.
        """
        names = {one.subnet.id for one in elites}
        dropped = (row.candidate for row in rows if row.status == "screened")
        return cls(
            rows,
            Counter(map(generation.left_at, dropped)),
            Counter(row.operator for row in rows if row.candidate in names),
        )
