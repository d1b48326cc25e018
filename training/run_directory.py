"""The files of a pretraining run's directory."""

from __future__ import annotations

from pathlib import Path

SUMMARY = "summary.json"

RESULT = "model"
"""The checkpoint directory of the trained network."""

CHECKPOINTS = "checkpoints"
"""An interrupted run goes on from these."""

PREFIX = "step-"
"""The names of checkpoints begin with this; their step follows."""

STOP = ".stop"
"""A file by which the driver asks the workers to write a checkpoint and end."""

FREE = (
    "model", "teacher", "teacher_logits", "text", "validation_text", "micro_batch",
    "text_field", "on_bad_line", "bos",
)  # fmt: skip
"""Recorded settings that may differ at every start. A path does not say what lies there; the hash
that stands beside it does. The size of a micro-batch changes only the last bits of the result."""


def checkpoint_of(run: Path, step: int) -> Path:
    """The directory of a step's checkpoint in a run directory."""
    return run / CHECKPOINTS / f"{PREFIX}{step}"


def checkpoints_of(run: Path) -> dict[int, Path]:
    """The checkpoints in a run directory by their steps, in their order."""
    found = {step_of(path): path for path in (run / CHECKPOINTS).glob(f"{PREFIX}*")}
    return dict(sorted((step, path) for step, path in found.items() if step is not None))


def step_of(checkpoint: Path) -> int | None:
    """The step of a checkpoint; None where the directory has not the name of one."""
    number = checkpoint.name.removeprefix(PREFIX)
    return int(number) if number.isdecimal() and number != checkpoint.name else None
