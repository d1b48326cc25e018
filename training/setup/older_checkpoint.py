"""Going on from a checkpoint of another run, as to go back behind a spike of its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evo.errors import UserError
from evo.storage.files import write_whole
from evo.storage.run_directory import difference, read_settings
from evo.storage.strict_json import dumps
from training.logs import log
from training.run_directory import step_of

SAME = ("model_hash", "batch", "sequence_length")
"""Recorded settings that both runs have in common: else the state or its step mean nothing."""


def check_older(checkpoint: Path, recorded: dict[str, Any], steps: int) -> None:
    """Make sure that a run can begin from a checkpoint, before anything is written.

    Args:
        checkpoint: RUN/checkpoints/step-N.
        recorded: settings of the run that is to begin.
        steps: its steps.

    Raises:
        UserError: it cannot.
    """
    flag, step = f"--resume-from {checkpoint}", step_of(checkpoint)
    if step is None or not (checkpoint / ".metadata").is_file():
        raise UserError(f"{flag}: it is no checkpoint of a run: give RUN/checkpoints/step-N")
    before = read_settings(run_of(checkpoint))
    for name in SAME:
        if before.get(name) != recorded[name]:
            raise UserError(
                f"{flag}, a run's with other settings: "
                f"{difference(name, before.get(name), recorded[name])}"
            )
    if step >= steps:
        raise UserError(f"{flag}: this run has only {steps} steps: give more --tokens")


def run_of(checkpoint: Path) -> Path:
    """The run directory that a checkpoint lies in."""
    return checkpoint.absolute().parent.parent


def take_over_log(checkpoint: Path, run: Path) -> None:
    """Begin a run's log with what led to the checkpoint.

    Raises:
        UserError: the other run's log is damaged, or this one cannot be written.
    """
    last = step_of(checkpoint) or 0
    rows = [row for row in log.rows(run_of(checkpoint)) if row["step"] <= last]
    write_whole(run / log.LOG, "".join(dumps(row) + "\n" for row in rows))
