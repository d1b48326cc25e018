"""Every evaluation of a search, on disk: a journal while a generation runs, a part after it.

At the end of a generation its sums go to its part of `history.parquet`, in canonical order, then
the strategy's state to `state.json`, each whole or not at all, and then the journal goes. All of
this is done by another thread, as the next generation begins. Parts newer than the state are
results, not history: resuming asks for that generation again and finds its journal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from evo.search.history.journal import Journal
from evo.search.history.parts import LIGHT, PARQUET, Parts
from evo.search.history.row import Row
from evo.storage.files import output_errors, write_whole
from evo.storage.records import Count, Name, Number, read_json_if_there, reading


class GatesState(TypedDict):
    """Which gradients are there; see `evo.search.gates`."""

    known: list[Name]
    failed: list[str]
    failures: Count
    flops: Count


class State(TypedDict):
    """A strategy's state after a generation, and what goes with it."""

    generation: Count
    ended: NotRequired[str | None]
    improved: NotRequired[Count]
    rng: NotRequired[dict[str, Any]]
    elites: NotRequired[list[str]]
    elite_losses: NotRequired[dict[str, list[Number]]]
    observed: NotRequired[dict[str, list[Number]]]
    gates: NotRequired[GatesState]


def check_rng(state: dict[str, Any]) -> None:
    """Make sure that random numbers can go on from a state.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: they cannot.
    """
    np.random.default_rng(0).bit_generator.state = state


class History:
    """The files of one search.

    Args:
        directory: of the search; made if it is not there.

    Attributes:
        state: after the last generation that has ended; None before the first has.

    Raises:
        UserError: it cannot be made, or what it holds is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with output_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.parquet = directory / PARQUET
        self.state_file = directory / "state.json"
        anew = f"remove {directory} to search anew"
        state = read_json_if_there(self.state_file, State, anew)
        self.state: dict[str, Any] | None = dict(state) if state is not None else None
        self._parts = Parts(self.parquet)
        with reading(self.parquet, anew):
            found = set(self._parts.generations())
            if missing := set(range(self.generations)) - found:
                raise ValueError(f"it has no part of generation {min(missing)}")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._writing: Future[None] | None = None

    @property
    def generations(self) -> int:
        """How many have ended."""
        return self.state["generation"] if self.state else 0

    def journal(self, generation: int) -> Journal:
        """The files of a generation that has not ended."""
        return Journal(self.directory, generation)

    def frame(self, columns: Sequence[str] = LIGHT) -> pd.DataFrame:
        """The generations that have ended, in order, without genomes.

        Args:
            columns: those of `Row` that are read.

        Raises:
            UserError: a part is damaged.
        """
        self.flush()
        return self._parts.table(range(self.generations), columns).to_pandas()

    def rows(self, chosen: pd.DataFrame | None = None) -> list[Row]:
        """Rows with their genomes.

        Args:
            chosen: rows of `frame` with the columns `candidate` and `generation`, in whose order
                the result is; all there are by default, which may not fit in memory.

        Raises:
            UserError: a part is damaged.
        """
        self.flush()
        if chosen is None:
            return [row for each in range(self.generations) for row in self._parts.rows(each)]
        found = {
            row.candidate: row
            for generation, rows in chosen.groupby("generation")
            for row in self._parts.rows(int(str(generation)), list(rows["candidate"]))
        }
        return [found[name] for name in chosen["candidate"]]

    def fold(self, rows: Iterable[Row], state: dict[str, Any], stale: Sequence[Path] = ()) -> None:
        """End a generation: its rows join the history, the state is written, the journal goes.

        Another thread does so, once it has done with the generation before.

        Args:
            rows: of the generation.
            state: the strategy's, with the number of generations that have ended.
            stale: files that are of no use any more when all that is done, and go.

        Raises:
            UserError: the generation before could not be written: the disk is full, or the like.
        """
        self.flush()
        text = json.dumps(state)
        self.state = state
        self._writing = self._writer.submit(self._write, list(rows), state, text, stale)

    def flush(self) -> None:
        """Wait until all that was folded is on disk.

        Raises:
            UserError: it could not be written.
        """
        if self._writing is not None:
            self._writing.result()

    def _write(
        self, rows: list[Row], state: dict[str, Any], text: str, stale: Sequence[Path]
    ) -> None:
        generation = state["generation"] - 1
        self._parts.write(generation, rows)
        write_whole(self.state_file, text)
        self.journal(generation).remove()
        for path in stale:
            with output_errors(path):
                path.unlink(missing_ok=True)
