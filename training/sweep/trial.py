"""A run of a sweep, as Ray Tune calls it."""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from evo.errors import UserError
from evo.storage.files import write_whole
from training.config import PretrainConfig
from training.logs import log
from training.logs.log_tail import Row
from training.pretrain import pretrain
from training.run_directory import SUMMARY
from training.setup.failures import reason
from training.setup.launch import launch_on_ray_train
from training.setup.ray_internals import is_death
from training.setup.training_run import Launch

STOPPED = "stopped.json"
"""A file in the directory of a run that was stopped early, and is not taken up again."""

TRACEBACK = "error.txt"
"""A file in the directory of a run that was ended by an exception that nobody foresaw."""

METRIC = "validation_perplexity"
TIME = "tokens"
FAILED = "failed"

LARGEST = 1e300
"""Stands for perplexities that are not finite, which have no percentiles."""


def comparable(perplexity: float) -> float:
    """A perplexity that Tune can rank: one that is not finite is the worst."""
    return perplexity if math.isfinite(perplexity) else LARGEST


class Reporter:
    """Reports every validation to Tune but the last, on which nothing is left to decide.

    A trial that Tune stops is killed: at the last validation its result would be lost.

    Args:
        tokens: tokens of the whole run.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens, self._step = tokens, -1

    def restart(self) -> None:
        """Rows that are passed on again are not reported again."""

    def rows(self, rows: list[Row]) -> None:
        """Report the new validations."""
        for row in rows:
            if METRIC in row and row["step"] > self._step and 0 < row[TIME] < self._tokens:
                self._step = row["step"]
                tune.report({TIME: row[TIME], METRIC: comparable(row[METRIC])})

    def close(self) -> None:
        """Nothing is left to do."""


def run_trial(config: PretrainConfig, launch: Launch = launch_on_ray_train) -> dict[str, Any]:
    """Train; a run that has ended earlier is only reported, so that others are compared with it.

    Args:
        config: settings of the trial's run.
        launch: runs the training loop.

    Returns:
        The trial's last report: the reason, if the run failed. The death of a process or a
        node, which may not come again, is raised, so that Tune tries again.
    """
    run, reporter = Path(config.out), Reporter(config.tokens)
    if (run / SUMMARY).is_file() or (run / STOPPED).is_file():
        if rows := log.rows(run):
            reporter.rows(rows)
        return {FAILED: ""}
    try:
        pretrain(config, watcher=reporter, launch=launch)
    except Exception as error:
        if is_death(error):
            raise
        return {FAILED: _explained(error, run)}
    return {FAILED: ""}


def _explained(error: Exception, run: Path) -> str:
    """The reason of a failure in one line; the traceback of a defect is kept in a file."""
    if isinstance(error, UserError) or not run.is_dir():
        return reason(error)
    write_whole(run / TRACEBACK, "".join(traceback.format_exception(error)))
    return f"{reason(error)} (traceback in {run / TRACEBACK})"
