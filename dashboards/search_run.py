"""What a run directory of `evo search` holds, while the run goes on and after it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evo.errors import UserError
from evo.genome.ranking import Order
from evo.genome.subnet import Dimensions
from evo.search.history import History, frame
from evo.storage.run_directory import read_settings


@dataclass(frozen=True, eq=False)
class SearchRecord:
    """One search of a run.

    Attributes:
        name: `SPACE@BIN`.
        directory: where its files are, or will be.
        history: one row per evaluated candidate of the generations that have ended, columns as
            in `evo.search.history.Row`; without rows before the first one has.
        generations: how many have ended.
        ended: why the search has ended; None where it goes on, or was stopped.
        summary: its part of `summary.json`; None before the whole run has ended.
    """

    name: str
    directory: Path
    history: pd.DataFrame
    generations: int
    ended: str | None
    summary: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run.

    Attributes:
        path: of its directory.
        settings: as `settings.yaml` has them.
        summary: as `summary.json` has it; None before the run has ended.
        dimensions: of the teacher; None before its parts are ranked, when nothing is scored yet.
        searches: in the order of the settings, those that have not begun included.
    """

    path: Path
    settings: dict[str, Any]
    summary: dict[str, Any] | None
    dimensions: Dimensions | None
    searches: list[SearchRecord]


def read_run(run: Path) -> RunRecord:
    """Read a run directory; nothing in it is changed.

    Raises:
        UserError: it is no run of `evo search`, or one of its files is damaged.
    """
    settings = read_settings(run)
    if not isinstance(settings.get("bins"), list) or not isinstance(settings.get("spaces"), list):
        raise UserError(
            f"{run} is no run of `evo search`: its settings name no bins and spaces; give the "
            "directory that was its --out"
        )
    summary = read_json(run / "summary.json")
    ended = {row["name"]: row for row in summary["searches"]} if summary else {}
    names = [f"{space}@{bin.strip()}" for bin in settings["bins"] for space in settings["spaces"]]
    searches = [_read_search(run / "searches" / name, ended.get(name)) for name in names]
    dimensions = _teacher_dimensions(run / "order.npz")
    if dimensions is None and any(len(search.history) for search in searches):
        raise UserError(f"{run} is damaged: it has scored candidates, but no order.npz")
    return RunRecord(run, settings, summary, dimensions, searches)


def _read_search(directory: Path, summary: dict[str, Any] | None) -> SearchRecord:
    if not (directory / "state.json").is_file():
        return SearchRecord(directory.name, directory, frame([]), 0, None, summary)
    history = History(directory)
    state = history.state or {}
    return SearchRecord(
        name=directory.name,
        directory=directory,
        history=frame(history.completed()),
        generations=state["generation"],
        ended=summary["ended"] if summary else state["ended"],
        summary=summary,
    )


def _teacher_dimensions(order_path: Path) -> Dimensions | None:
    if not order_path.is_file():
        return None
    order = Order.load(order_path)
    return Dimensions(
        layers=order.layers.size,
        channels=order.channels.size,
        groups=order.groups.shape[1],
        neurons=order.neurons.shape[1],
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a file; None where there is none.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
