"""A pretraining run's directory, and the settings that it belongs to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from evo.settings import claim_run, flat

SUMMARY = "summary.json"

RESULT = "model"
"""The checkpoint directory of what was trained."""

CHECKPOINTS = "checkpoints"
"""Where Ray Train keeps what an interrupted run goes on from."""

NAMES = ("model", "teacher", "teacher_logits", "text", "validation_text")
"""Where things lie is not what they are: they are told by their hashes, which stand beside."""


def claim(run: Path, settings: dict[str, Any]) -> None:
    """Make a run directory for these settings, or make sure that it is theirs.

    Raises:
        UserError: the directory is of other settings, of something else, or cannot be made.
    """
    claim_run(run, settings, free=NAMES)


def settings_hash(settings: dict[str, Any]) -> str:
    """16 hexadecimal digits, of what the settings mean."""
    told = {name: value for name, value in flat(settings).items() if name not in NAMES}
    content = json.dumps(told, sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
