"""The FLOPs that were spent for a run before its first step: by the search and by the train-off.

Both leave a `summary.json`. A run finds them by where its directory or its model lies: a search's
winners in RUN/searches/SPACE@BIN/winner, a train-off's finalists in RUN/select/BIN/finalists/ID and
their runs in RUN/select/BIN/runs/ID (or in the directory that `evo select --out` named).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypeVar

from typing_extensions import TypedDict

from evo.storage.records import Amount, Name, PathText, checked, read_json_if_there, reading
from evo.storage.run_directory import read_settings
from training.run_directory import SUMMARY

Kind = TypeVar("Kind")

logger = logging.getLogger("evo.training")


class Begun(TypedDict):
    """The settings that say what a run was begun with."""

    init: NotRequired[str]
    model: NotRequired[PathText]


class SearchFlops(TypedDict):
    """Of a search in a run's summary: its bin and its FLOPs."""

    bin: str
    flops: Amount


class RunFlops(TypedDict):
    """Of a run's summary: the FLOPs of its searches and of its order."""

    searches: list[SearchFlops]
    order_flops: Amount


class WinnerId(TypedDict):
    """Of a train-off's winner: its id."""

    candidate: Name


class TrainOffFlops(TypedDict):
    """Of a train-off's summary: the run and bin that it is of, its winner and FLOPs."""

    run: PathText
    bin: str
    winner: WinnerId
    flops: Amount
    winner_flops: Amount


@dataclass(frozen=True)
class FlopsBefore:
    """FLOPs before a run's first step.

    Attributes:
        search: of the searches in the run's bin, and of their order.
        train_off: of the trainings of those that lost; of all, where the run does not go on with
            the winner's.
    """

    search: float = 0.0
    train_off: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.search + self.train_off


def flops_before(run: Path) -> FlopsBefore:
    """What was spent for a run: nothing for random weights, whichever way their shape was chosen,
    and for a model of elsewhere.

    Args:
        run: run directory of `evo pretrain`.

    Raises:
        UserError: a summary is damaged.
    """
    settings = read_settings(run, Begun, of="`evo pretrain`")
    if settings.get("init") == "random" or "model" not in settings:
        return FlopsBefore()
    run, model = run.absolute(), Path(settings["model"]).absolute()
    for directory in (run.parent.parent, model.parent.parent):
        train_off = _read(directory / SUMMARY, TrainOffFlops, "winner_flops")
        if train_off is not None:
            # Where the user named no --out, the run is two levels up, wherever it was moved to.
            search = _of_search((Path(train_off["run"]), directory.parent.parent), train_off["bin"])
            goes_on = run == directory / "runs" / train_off["winner"]["candidate"]
            own = train_off["winner_flops"] if goes_on else 0
            return FlopsBefore(search, float(train_off["flops"] - own))
    if model.name == "winner" and model.parent.parent.name == "searches":
        searched = model.parent.parent.parent
        return FlopsBefore(_of_search((searched,), model.parent.name.partition("@")[2]))
    if not model.is_dir():
        logger.warning("%s is gone: whether a search led to %s is not known", model, run)
    return FlopsBefore()


def _of_search(places: Sequence[Path], bin: str) -> float:
    """FLOPs of a run's searches in a bin and of its order; 0, with a warning, where it is gone."""
    for run in places:
        summary = _read(run / SUMMARY, RunFlops, "searches")
        if summary is not None:
            flops = sum(search["flops"] for search in summary["searches"] if search["bin"] == bin)
            return float(flops + summary["order_flops"])
    logger.warning("%s has no summary of a search: its FLOPs are not counted", places[0])
    return 0.0


def _read(path: Path, kind: type[Kind], mark: str) -> Kind | None:
    """A summary of a kind, known by a field; None where there is none, or one of another kind."""
    content: Any = read_json_if_there(path, Any)
    if not isinstance(content, dict) or mark not in content:
        return None
    with reading(path):
        return checked(content, kind)
