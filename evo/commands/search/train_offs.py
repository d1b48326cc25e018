"""`evo search --select FILE`: the train-offs that follow a search, one in each of its bins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from evo.commands.search.config import SearchConfig
from evo.commands.select import run as select
from evo.errors import UserError
from evo.flags import parse_config
from training.selection.config import SelectConfig, default_out
from training.selection.rounds import plan_rounds
from training.selection.train_off import planned_run


def read_train_offs(config: SearchConfig, file: Path) -> SelectConfig:
    """The settings of a search's train-offs, read and checked before the search begins.

    Args:
        config: the search.
        file: YAML file of flags of `evo select`.

    Returns:
        Settings without a bin, which all bins have in common.

    Raises:
        UserError: the file cannot be read, `evo select` does not know its flags, one is missing or
            is the search's to give, or what they name cannot be trained on.
    """
    arguments = [str(config.out), "--config", str(file)]
    try:
        settings = parse_config("evo select", SelectConfig, arguments, positional=("run",))
    except UserError as error:
        raise UserError(f"--select {file}: {error}") from error
    if settings.bin is not None or settings.out is not None:
        raise UserError(
            f"--select {file}: leave bin and out away, there is a train-off in each bin"
        )
    _, last = planned_run(settings, config.teacher, default_out(config.out, config.bins[0]))
    plan_rounds(settings.finalists, last)
    return settings


def run_train_offs(settings: SelectConfig, summary: dict[str, Any]) -> None:
    """Run the train-offs of all bins, or go on with them.

    Args:
        settings: settings that all bins have in common.
        summary: content of the search's `summary.json`.

    Raises:
        UserError: bad input, or all finalists of a bin have diverged.
    """
    for bin in dict.fromkeys(row["bin"] for row in summary["searches"]):
        select(replace(settings, bin=bin))
