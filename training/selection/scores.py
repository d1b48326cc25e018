"""The scores of a train-off on disk, so that nothing that is done is done again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evo.storage.files import write_whole
from evo.storage.records import checked, read_json_if_there, reading
from evo.storage.strict_json import dumps
from training.selection.rounds import Score

FILE = "scores.json"


class Scores:
    """Scores by the steps of training and by the finalist.

    Args:
        directory: directory of the train-off.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._scores: dict[tuple[int, str], Score] = {}
        rows = read_json_if_there(self._path, list[Any])
        for step, candidate, nll, reason in self._checked(rows or []):
            self._scores[step, candidate] = Score(nll, reason)

    def _checked(self, rows: list[Any]) -> list[tuple[int, str, float | None, str | None]]:
        with reading(self._path):
            return checked(
                [tuple(row) for row in rows], list[tuple[int, str, float | None, str | None]]
            )

    def at(self, step: int, candidates: Iterable[str]) -> dict[str, Score]:
        """The scores of those of these finalists that have one after so many steps."""
        return {
            candidate: self._scores[step, candidate]
            for candidate in candidates
            if (step, candidate) in self._scores
        }

    def add(self, step: int, candidate: str, score: Score) -> None:
        """Keep a score, on disk at once.

        Raises:
            UserError: the file cannot be written.
        """
        self._scores[step, candidate] = score
        rows = [
            [step, candidate, score.nll, score.reason]
            for (step, candidate), score in sorted(self._scores.items(), key=lambda one: one[0])
        ]
        write_whole(self._path, "[\n" + ",\n".join(map(dumps, rows)) + "\n]\n")
