"""The progress of a train-off: the steps of all its finalists, and their scores as they come."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import exp

from training.logs.steps_display import StepsDisplay
from training.selection.rounds import Score
from training.selection.train_off import TrainOff
from training.setup.training_run import TrainingRun

logger = logging.getLogger("evo.training")


class TrainOffProgress(StepsDisplay):
    """Shows how far a train-off is, on stderr; a context manager.

    Args:
        train_off: the train-off.
        runs: the finalists' runs.
    """

    def __init__(self, train_off: TrainOff, runs: Mapping[str, TrainingRun]) -> None:
        self._rounds, self._targets = len(train_off.rounds), train_off.targets
        before = [0, *(each.step for each in train_off.rounds)]
        total = sum(
            each.finalists * (each.step - start)
            for each, start in zip(train_off.rounds, before, strict=False)
        )
        super().__init__(train_off.directory.name, total, [run.directory for run in runs.values()])

    def scored(self, number: int, candidate: str, score: Score) -> None:
        """Tell of a finalist at the end of a round.

        Args:
            number: the round's, from 1.
            candidate: the finalist.
            score: the finalist's score.
        """
        text = score.reason
        if score.nll is not None:
            text = f"perplexity {exp(min(score.nll / self._targets, 700)):.2f}"
        logger.info("round %d of %d: %s: %s", number, self._rounds, candidate, text)
