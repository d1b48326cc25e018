"""`summary.json` of a train-off, as reports and comparisons read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Gt
from typing_extensions import TypedDict

from evo.storage.records import Count, Name, PathText, read_json_if_there, reading
from training.run_directory import SUMMARY


class Winner(TypedDict):
    """The finalist that goes on."""

    candidate: Name
    layers: Count
    nll: float | None
    perplexity: float | None


class RoundSummary(TypedDict):
    """A round that has ended."""

    finalists: Count
    step: Count
    tokens: Count
    survivors: list[str]


class FinalistSummary(TypedDict):
    """A finalist, and its curve."""

    candidate: Name
    search: Name
    layers: Count
    params: Count
    fitness: float
    nll_before: float | None
    nll: list[float | None]
    reason: str | None
    tokens: Count
    flops: Count
    curve_tokens: list[Count]
    curve_perplexity: list[float | None]


TrainOffSummary = TypedDict(
    "TrainOffSummary",
    {
        "run": PathText,
        "bin": Name,
        "chosen_by": str,
        "validation_text": str,
        "winner": Winner,
        "continue": str,
        "rounds": list[RoundSummary],
        "finalists": list[FinalistSummary],
        "flops": Count,
        "winner_flops": Count,
        "planned_flops": Annotated[int, Gt(0)],
    },
)


def read_train_off(directory: Path) -> TrainOffSummary | None:
    """The summary of a train-off; None before it has ended.

    Raises:
        UserError: it is damaged.
    """
    path = directory / SUMMARY
    summary = read_json_if_there(path, TrainOffSummary)
    with reading(path):
        for one in summary["finalists"] if summary else ():
            if len(one["curve_tokens"]) != len(one["curve_perplexity"]):
                raise ValueError(
                    f"the curve of {one['candidate']} has not as many tokens as points"
                )
    return summary
