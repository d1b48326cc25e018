"""Candidates of a run as standalone checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from evo.model.extract import extract
from evo.model.network import EMBEDDING
from evo.search.history.history import History
from evo.search.history.parts import PARQUET
from evo.search.history.row import Row
from evo.search.niches import scored_in_full
from evo.search.run_files import read_searched
from evo.storage.records import reading


def save_candidate(
    teacher: Checkpoint, row: Row, directory: Path, *, source: Path, bin: str, seed: int
) -> None:
    """Cut a candidate out of its teacher and write it, in the teacher's stored dtype.

    Args:
        teacher: the teacher.
        row: the candidate's.
        directory: the checkpoint directory to make.
        source: directory of the search that has the row, SPACE@BIN.
        bin: the search's bin.
        seed: the run's.

    Raises:
        UserError: the row is damaged; the directory exists, or cannot be written.
    """
    with reading(source / PARQUET):
        subnet = Subnet.unpack(row.genome, teacher.architecture.dimensions)
        if subnet.id != row.candidate:
            raise ValueError(f"the genome of candidate {row.candidate} is another one's")
    stored = teacher.weights[EMBEDDING].dtype
    model = extract(teacher, subnet, dtype=stored)
    origin: dict[str, Any] = {
        "teacher": teacher.config.name,
        "teacher_path": str(teacher.path.resolve()),
        "teacher_hash": teacher.hash,
        "candidate": row.candidate,
        "space": source.name.partition("@")[0],
        "bin": bin,
        "seed": seed,
        "params": row.params,
        "fitness": row.fitness,
        "nll": None if math.isnan(row.nll) else row.nll,
        "perplexity": None if math.isnan(row.nll) else row.perplexity,
    }
    checkpoint.save(directory, model, tokenizer_from=teacher.path, origin=origin)


def extract_candidate(run: Path, search: str | None, candidate: str | None, out: Path) -> Row:
    """Extract a candidate of a run.

    Args:
        run: a search's run directory.
        search: `SPACE@BIN`; may be None where the run has only one.
        candidate: its id, or the first digits of it; None for the best so far.
        out: the checkpoint directory to make.

    Returns:
        The candidate's row.

    Raises:
        UserError: no such run, search or candidate; the teacher has changed since.
    """
    seed = read_searched(run)["seed"]
    searches = sorted(path.name for path in (run / "searches").glob("*@*"))
    if search is None and len(searches) == 1:
        search = searches[0]
    if search not in searches:
        problem = "say which search" if search is None else f"{run} has no search {search!r}"
        raise UserError(f"{problem}: --search is one of {', '.join(searches) or 'none'}")
    history = History(run / "searches" / search)
    columns = ("candidate", "generation", "status", "fitness")
    found = _pick(history.frame(columns), candidate, history.directory)
    (row,) = history.rows(found)
    teacher = searched_teacher(run)
    bin = search.partition("@")[2]
    save_candidate(teacher, row, out, source=run / "searches" / search, bin=bin, seed=seed)
    return row


def searched_teacher(run: Path) -> Checkpoint:
    """The teacher that a run has searched.

    Raises:
        UserError: no such run, or its teacher has changed since.
    """
    settings = read_searched(run)
    teacher = checkpoint.load(Path(settings["teacher"]))
    if teacher.hash != settings["teacher_hash"]:
        raise UserError(f"the teacher in {teacher.path} is not the one that {run} searched")
    return teacher


def _pick(history: pd.DataFrame, candidate: str | None, search: Path) -> pd.DataFrame:
    """The row of a candidate."""
    if candidate is None:
        best = scored_in_full(history)[:1]
        if best.empty:
            raise UserError(f"{search} has no candidate that is scored in full yet")
        return best
    found = history[history["candidate"].str.startswith(candidate)]
    if len(found) != 1:
        raise UserError(
            f"{len(found)} candidates of {search} have an id that begins with {candidate!r}: give "
            "all digits of one in its history.parquet"
        )
    return found
