"""A pretraining run's directory, and the settings that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evo.storage.run_directory import claim_run

SUMMARY = "summary.json"

RESULT = "model"
"""The checkpoint directory of what was trained."""

CHECKPOINTS = "checkpoints"
"""What an interrupted run goes on from."""

FREE = ("model", "teacher", "teacher_logits", "text", "validation_text", "micro_batch")
"""May differ at every start. Where things lie is not what they are: they are told by their hashes,
which stand beside. And in how large parts a batch runs changes no more than last bits."""


def claim(run: Path, settings: dict[str, Any]) -> None:
    """Make a run directory for these settings, or make sure that it is theirs.

    Raises:
        UserError: the directory is of other settings, of something else, or cannot be made.
    """
    claim_run(run, settings, free=FREE)
