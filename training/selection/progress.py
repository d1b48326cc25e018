"""The progress of a train-off, read from the logs of its finalists' runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import exp
from typing import Self

from evo.progress import WorkProgress, duration, seconds_left
from training.logs.log_tail import LogReader
from training.selection.rounds import Score
from training.selection.train_off import TrainOff
from training.setup.training_run import TrainingRun

logger = logging.getLogger("evo.training")


class TrainOffProgress:
    """Shows how far a train-off is, on stderr; a context manager.

    Args:
        train_off: the train-off.
        runs: the finalists' runs.
    """

    def __init__(self, train_off: TrainOff, runs: Mapping[str, TrainingRun]) -> None:
        self._rounds, self._targets = len(train_off.rounds), train_off.targets
        before = [0, *(each.step for each in train_off.rounds)]
        self._total = sum(
            each.finalists * (each.step - start)
            for each, start in zip(train_off.rounds, before, strict=False)
        )
        self._readers = {name: LogReader(run.directory) for name, run in runs.items()}
        self._steps = dict.fromkeys(runs, 0)
        self._first: int | None = None
        self._shown = WorkProgress(train_off.directory.name, self._total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for reader in self._readers.values():
            reader.close()
        self._shown.__exit__(kind)

    def look(self) -> None:
        """Show how many steps all finalists together have had."""
        for name, reader in self._readers.items():
            _, rows = reader.read()
            if rows:
                self._steps[name] = rows[-1]["step"]
        done = sum(self._steps.values())
        if self._first is None:  # what was done before this start took no time of it
            self._first = done
        left = seconds_left(self._shown.seconds, done - self._first, self._total - done)
        self._shown.update(done, f"{done:,} of {self._total:,} steps, {duration(left)} left")

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
