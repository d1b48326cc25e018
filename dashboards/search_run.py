"""What a run directory of `evo search` holds, while the run goes on and after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evo.errors import UserError
from evo.genome.ranking import Order
from evo.genome.subnet import Dimensions, Subnet
from evo.search.history.history import History
from evo.search.history.row import frame
from evo.search.niches import scored_in_full
from evo.search.run_files import RunSummary, SearchSummary, read_search_settings, read_summary
from evo.storage.records import reading


@dataclass(frozen=True, eq=False)
class SearchRecord:
    """One search of a run.

    Attributes:
        name: `SPACE@BIN`.
        directory: where its files are, or will be.
        history: one row per evaluated candidate of the generations that have ended, columns as
            in `evo.search.history.row`, without genomes; without rows before the first one has.
        winner: the best candidate; None before there is one.
        generations: how many have ended.
        ended: why the search has ended; None where it goes on, or was stopped.
        summary: its part of `summary.json`; None before the whole run has ended.
    """

    name: str
    directory: Path
    history: pd.DataFrame
    winner: Subnet | None
    generations: int
    ended: str | None
    summary: SearchSummary | None


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
    summary: RunSummary | None
    dimensions: Dimensions | None
    searches: list[SearchRecord]


def read_run(run: Path) -> RunRecord:
    """Read a run directory; nothing in it is changed.

    Raises:
        UserError: it is no run of `evo search`, or one of its files is damaged.
    """
    settings = read_search_settings(run)
    summary = read_summary(run)
    ended = {row["name"]: row for row in summary["searches"]} if summary else {}
    names = [f"{space}@{bin.strip()}" for bin in settings["bins"] for space in settings["spaces"]]
    dimensions = _teacher_dimensions(run / "order.npz")
    searches = [
        _read_search(run / "searches" / name, ended.get(name), dimensions) for name in names
    ]
    if dimensions is None and any(len(search.history) for search in searches):
        raise UserError(f"{run} is damaged: it has scored candidates, but no order.npz")
    return RunRecord(run, settings, summary, dimensions, searches)


def _read_search(
    directory: Path, summary: SearchSummary | None, dimensions: Dimensions | None
) -> SearchRecord:
    if not (directory / "state.json").is_file():
        return SearchRecord(directory.name, directory, frame([]), None, 0, None, summary)
    history = History(directory)
    state, found = history.state or {}, history.frame()
    winner = None
    if dimensions is not None:
        for row in history.rows(scored_in_full(found)[:1]):
            with reading(history.parquet):
                winner = Subnet.unpack(row.genome, dimensions)
    return SearchRecord(
        name=directory.name,
        directory=directory,
        history=found,
        winner=winner,
        generations=history.generations,
        ended=summary["ended"] if summary else state["ended"],
        summary=summary,
    )


def _teacher_dimensions(order_path: Path) -> Dimensions | None:
    return Order.load(order_path).dimensions if order_path.is_file() else None
