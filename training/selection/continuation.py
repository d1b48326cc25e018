"""The command that goes on with a run which a train-off has begun."""

from __future__ import annotations

import shlex
from dataclasses import MISSING, fields
from typing import Any

from training.config import PretrainConfig


def command(config: PretrainConfig) -> str:
    """The line for a shell that runs `evo pretrain` with these settings.

    Args:
        config: the settings; those that have their defaults are left out.
    """
    words = ["evo", "pretrain"]
    for field in fields(PretrainConfig):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default:
            words += _flag(field.name, value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{dashed}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{dashed}", *map(str, values)]
