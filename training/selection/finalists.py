"""The finalists of a bin: taken from the histories of its searches once, then cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from evo.algorithms import one_shot as one_shot_pruning
from evo.errors import UserError
from evo.model.checkpoint import Checkpoint
from evo.search.history.history import History
from evo.search.niches import in_turns
from evo.search.run_files import read_searched
from evo.search.winner import save_candidate
from evo.storage.files import write_whole
from evo.storage.records import Name, built, read_json_if_there, reading
from evo.storage.run_directory import read_settings
from evo.storage.strict_json import dumps

FILE = "finalists.json"


@dataclass(frozen=True)
class Finalist:
    """A candidate that takes part in a train-off.

    Attributes:
        candidate: its id.
        search: the search that found it, SPACE@BIN.
        layers: its blocks.
        params: its parameters.
        fitness: what the search minimised.
    """

    candidate: Name
    search: Name
    layers: int
    params: int
    fitness: float


def bin_of(run: Path, bin: str | None) -> str:
    """The bin whose candidates compete.

    Args:
        run: run directory of `evo search`.
        bin: the bin that the user names; may be None where the run has only one.

    Raises:
        UserError: no such run, or no such bin in it.
    """
    read_settings(run)
    bins = sorted({path.name.partition("@")[2] for path in _searches(run, "*")})
    if not bins:
        raise UserError(f"{run} is no run of `evo search`: there are no searches in it")
    if bin is None and len(bins) == 1:
        return bins[0]
    if bin not in bins:
        problem = "say which bin" if bin is None else f"{run} has no bin {bin!r}"
        raise UserError(f"{problem}: --bin is one of {', '.join(bins)}")
    return bin


def choose(run: Path, bin: str, count: int) -> list[Finalist]:
    """The finalists of a bin, from the histories of all its spaces.

    They are the best of each number of layers, then the second bests, and so on, for a search's
    fitness knows little of how networks of different depths train. The last place is that of the
    network by one-shot pruning where a search has proposed it, whatever its fitness is: what a
    train-off chooses should not end worse than what needs no search.

    Args:
        run: run directory of `evo search`.
        bin: one of its bins.
        count: number of finalists; fewer are taken where there are fewer.

    Raises:
        UserError: fewer than two candidates are scored in full.
    """
    candidates = _candidates(run, bin)
    best = in_turns(candidates)[:count]
    if len(best) < 2:
        raise UserError(
            f"{run} has {len(best)} candidates in {bin} that are scored in full, and a train-off "
            "needs two: let the search go on"
        )
    one_shot = candidates[candidates["operator"] == one_shot_pruning.OPERATOR][:1]
    if not one_shot.empty and not one_shot["candidate"].isin(best["candidate"]).all():
        best = pd.concat([best[: count - 1], one_shot])
    names = [each.name for each in fields(Finalist)]
    return built(best[names].to_dict("records"), list[Finalist])


def load(directory: Path) -> list[Finalist] | None:
    """The finalists with which a train-off was begun; None before there are any.

    Raises:
        UserError: the file is damaged.
    """
    path = directory / FILE
    listed = read_json_if_there(path, list[dict[str, Any]])
    if listed is None:
        return None
    with reading(path):
        finalists = built(listed, list[Finalist])
        if len(finalists) < 2:
            raise ValueError("a train-off has two finalists at least")
        return finalists


def save(finalists: Sequence[Finalist], directory: Path) -> None:
    """Write the finalists down, so that they stay the same if the search goes on.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [asdict(finalist) for finalist in finalists]
    write_whole(directory / FILE, dumps(rows, indent=1) + "\n")


def cut_out(
    finalists: Sequence[Finalist], run: Path, bin: str, teacher: Checkpoint, directory: Path
) -> None:
    """Write those finalists as checkpoints that are not there yet.

    Args:
        finalists: the finalists.
        run: run directory of `evo search`.
        bin: the bin that they are of.
        teacher: the teacher that was searched.
        directory: parent of the checkpoint directories, which are named by the candidates' ids.

    Raises:
        UserError: a finalist is not in the run's histories; a checkpoint cannot be written.
    """
    missing = [one for one in finalists if not (directory / one.candidate).is_dir()]
    if not missing:
        return
    candidates, seed = _candidates(run, bin), read_searched(run)["seed"]
    for one in missing:
        found = candidates[candidates["candidate"] == one.candidate]
        if found.empty:
            raise UserError(
                f"{run} has no candidate {one.candidate}, with which this train-off was begun: "
                "name the run that it is of, or another --out"
            )
        source = run / "searches" / found["search"].iloc[0]
        (row,) = History(source).rows(found)
        save_candidate(teacher, row, directory / one.candidate, source=source, bin=bin, seed=seed)


def _candidates(run: Path, bin: str) -> pd.DataFrame:
    """A bin's candidates that are scored in full or are by one-shot pruning, without their genomes;
    each from the first search that has it, which the column `search` names."""
    found = pd.concat(
        History(path).frame().assign(search=path.name) for path in _searches(run, bin)
    ).reset_index(drop=True)
    by_one_shot = (found["operator"] == one_shot_pruning.OPERATOR) & (found["status"] != "failed")
    return found[(found["status"] == "full") | by_one_shot].drop_duplicates("candidate")


def _searches(run: Path, bin: str) -> list[Path]:
    """The directories of a run's searches in a bin, or in any."""
    paths = sorted((run / "searches").glob("*@*"))
    return [path for path in paths if bin in ("*", path.name.partition("@")[2])]
