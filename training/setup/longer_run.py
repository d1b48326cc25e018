"""More `--tokens` for a run that is there.

Under a warm-up-stable-decay schedule (Hu et al. 2024, MiniCPM) a longer run shares the trunk of a
shorter one: its steps before the learning rate falls.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from evo.errors import UserError
from evo.storage.files import output_errors
from evo.storage.records import Count, reading
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import Settings, difference, other_setting, read_settings
from training.config import PretrainConfig
from training.run_directory import CHECKPOINTS, RESULT, SUMMARY, checkpoints_of

GROWING = ("steps", "decay_steps", "text_hash", "text_tokens", "text_shares")
"""Recorded settings that change with the tokens."""


class Begun(TypedDict):
    """The settings of a run whose defaults follow from its tokens."""

    steps: Count
    batch: Count
    sequence_length: Count
    warmup_steps: Count
    validate_every: Count
    validation_tokens: NotRequired[Count | None]


def as_begun(config: PretrainConfig) -> PretrainConfig:
    """The settings with those that the user leaves open as the run was begun with, so that with
    other tokens nothing else changes.

    Raises:
        UserError: the directory holds another kind of run, or one of more tokens.
    """
    run = Path(config.out)
    if not (run / SETTINGS).is_file():
        return config
    begun = read_settings(run, Begun, of="`evo pretrain`")
    steps = ceil(config.tokens / max(1, begun["batch"] * begun["sequence_length"]))
    if config.batch_tokens is None and steps < begun["steps"]:
        raise _fewer(run, begun["steps"], steps)
    return replace(
        config,
        batch_tokens=config.batch_tokens or begun["batch"] * begun["sequence_length"],
        validate_every=config.validate_every or begun["validate_every"] or None,
        validation_tokens=config.validation_tokens or begun.get("validation_tokens"),
        warmup=float(begun["warmup_steps"]) if config.warmup is None else config.warmup,
    )


def reopen(run: Path, before: Settings, now: Settings) -> None:
    """Make a run the beginning of a longer one: its trunk is left.

    The summary goes first and what follows the trunk then, before the new settings are written:
    whenever this is cut off, either command goes on from the trunk.

    Raises:
        UserError: it is no beginning of what is asked for now.
    """
    with reading(run / SETTINGS):
        trunk = _trunk(run, before, now)
    _cut_back(run, trunk)


def _fewer(run: Path, before: int, now: int) -> UserError:
    return UserError(
        f"{run}: {difference('steps', before, now)}: give no fewer tokens, or another --out"
    )


def _trunk(run: Path, before: Settings, now: Settings) -> int:
    """The last step that both runs share."""
    if before["steps"] == now["steps"]:
        key = next(key for key in GROWING if before.get(key) != now.get(key))
        raise other_setting(run, key, before, now)
    asked = f"{run}: {difference('steps', before['steps'], now['steps'])}"
    if before["steps"] > now["steps"]:
        raise _fewer(run, before["steps"], now["steps"])
    if "decay_steps" not in before or "decay_steps" not in now:
        raise UserError(
            f"{asked}: a cosine's course depends on its length from the first step on; runs with "
            "--schedule wsd can be made longer, others are gone on from by --resume-from "
            f"{run / CHECKPOINTS}/step-N with another --out (see --keep-checkpoints)"
        )
    if before["text_hash"] != now["text_hash"]:
        raise UserError(
            f"{asked}, for which more of --text is read (or it has other content than when the run "
            "began): a text that is prepared (`evo prepare`) is open to any length"
        )
    for key in ("text_tokens", "text_shares"):
        if before.get(key) != now.get(key):
            raise other_setting(run, key, before, now)
    return int(min(each["steps"] - each["decay_steps"] for each in (before, now)))


def _cut_back(run: Path, trunk: int) -> None:
    """Remove all that came after a step."""
    checkpoints = checkpoints_of(run)
    later = [path for step, path in checkpoints.items() if step > trunk]
    has_passed = bool(later) or (run / SUMMARY).is_file()
    if has_passed and trunk and not any(step <= trunk for step in checkpoints):
        raise UserError(
            f"{run} has no checkpoint up to step {trunk}, after which a learning rate falls: a "
            "longer run begins anew, with another --out"
        )
    with output_errors(run):
        (run / SUMMARY).unlink(missing_ok=True)
        for path in (*later, run / RESULT):
            if path.is_dir():
                gone = path.with_name(f".{path.name}.tmp")
                shutil.rmtree(gone, ignore_errors=True)
                path.rename(gone)  # whole or not at all
                shutil.rmtree(gone)
