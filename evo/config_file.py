"""The files that `--config` names: YAML, with a value for each flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evo.errors import UserError, first_line


def check_config_file(path: Path) -> None:
    """Make sure that a file gives values to names, whatever these are.

    Raises:
        UserError: it cannot be read, is no YAML in UTF-8, or has something else than names with
            texts, numbers, truths, or lists of these.
    """
    try:
        content = yaml.safe_load(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"--config {path}: {reason}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--config {path}, byte {error.start + 1}: this is not UTF-8: save it as UTF-8"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"--config {path}{_place(error)}: this is no YAML") from error
    if not isinstance(content, dict):
        raise UserError(
            f"--config {path}: give a flag's name and its value on each line, NAME: VALUE"
        )
    for name, value in content.items():
        if not isinstance(name, str) or name == "config":
            raise UserError(f"--config {path}: {name!r} is no name of a flag")
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, dict | list | set | bytes) for each in values):
            raise UserError(f"--config {path}: {name} is neither one value nor a list of some")


def _place(error: Exception) -> str:
    """Where in a file it is that cannot be read, and why."""
    if isinstance(error, RecursionError):
        return " (it is nested too deep)"
    mark: Any = getattr(error, "problem_mark", None)
    if mark is None:
        return f" ({first_line(error)})"
    return f", line {mark.line + 1} ({getattr(error, 'problem', '')})"
