"""A pretraining run's directory, and the settings that it belongs to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from evo.errors import UserError
from evo.files import atomic_file, output_errors

SETTINGS, SUMMARY = "settings.yaml", "summary.json"

RESULT = "model"
"""The checkpoint directory of what was trained."""

CHECKPOINTS = "checkpoints"
"""Where Ray Train keeps what an interrupted run goes on from."""

NAMES = ("model", "teacher", "text", "validation_text")
"""Where things lie is not what they are: they are told by their hashes, which stand beside."""


def claim(run: Path, settings: dict[str, Any]) -> None:
    """Make a run directory for these settings, or make sure that it is theirs.

    Raises:
        UserError: the directory is of other settings, of something else, or cannot be made.
    """
    path = run / SETTINGS
    if not path.is_file():
        if run.is_dir() and any(run.iterdir()):
            raise UserError(f"{run} exists already and is no pretraining run: name another --out")
        with output_errors(run):
            run.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False))
        return
    try:
        stored = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is damaged: name another --out") from error
    ours, theirs = _flat(settings), _flat(stored)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"{run} is a run of other settings: its {name} is {theirs.get(name)}, "
                f"not {ours.get(name)}; name another --out"
            )


def settings_hash(settings: dict[str, Any]) -> str:
    """16 hexadecimal digits, of what the settings mean."""
    content = json.dumps(_flat(settings), sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _flat(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {"settings.yaml": "no settings"}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": part for inner, part in value.items()}
        elif name not in NAMES:
            flat[name] = value
    return flat
