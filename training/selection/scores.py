"""The scores of a train-off on disk, so that nothing that is done is done again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from evo.errors import UserError, first_line
from evo.storage.files import write_whole
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
        if not self._path.is_file():
            return
        try:
            for step, candidate, nll, reason in json.loads(self._path.read_text()):
                self._scores[int(step), candidate] = Score(nll, reason)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self._path} is damaged: {first_line(error)}") from error

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
