"""What the files of a search's run directory hold, as its readers take it.

Settings and summary are written by `evo search`; reports, comparisons, train-offs and extraction
read them, in any later version and from wherever the directory was copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict

from evo.storage.records import LARGEST, Amount, Count, Name, PathText, read_json_if_there
from evo.storage.run_directory import FILE, read_settings

SUMMARY = "summary.json"


class Searched(TypedDict):
    """The settings that say what was searched."""

    teacher: PathText
    teacher_hash: str
    seed: Count


class Settled(TypedDict):
    """The settings that a search is begun with where the user leaves them open."""

    niches: NotRequired[Literal["layers"] | None]
    proposals: NotRequired[Annotated[int, Ge(1), Le(LARGEST)] | None]
    spaces: NotRequired[list[str]]
    gate_text: NotRequired[str | None]
    micro_batch: NotRequired[Annotated[int, Ge(1), Le(LARGEST)] | None]


class SearchSettings(TypedDict):
    """The settings that a report shows in words."""

    teacher: str
    text: list[str]
    text_hash: str
    text_note: str
    sequence_length: Count
    fitness: str
    order: str
    order_text: str | None
    order_text_hash: str | None
    spaces: list[Name]
    bins: list[Name]
    algorithm: str
    population: Count
    generations: Count
    patience: Count | None
    elites: Count
    mutation_rate: float
    crossover_rate: float
    seed: Count


class TextSummary(TypedDict):
    """The fitness text, by its sequences and their tokens."""

    blocks: Annotated[list[Count], Len(2, 2)]


class SearchSummary(TypedDict):
    """What one search came to."""

    name: Name
    bin: Name
    cost: str
    low: Count
    high: Count
    candidate: str | None
    params: Count | None
    nll: float | None
    perplexity: float | None
    evaluations: Count
    generations: Count
    tokens_scored: Count
    flops: Count
    seconds: Amount
    ended: str | None
    winner: str | None


class PointSummary(TypedDict):
    """A candidate that no other beats at its size."""

    search: Name
    candidate: str
    params: Count
    nll: float | None
    perplexity: float | None


class RunSummary(TypedDict):
    """`summary.json` of a run."""

    text: TextSummary
    order_flops: Count
    searches: list[SearchSummary]
    best: NotRequired[list[PointSummary]]
    front: NotRequired[list[PointSummary]]


def read_summary(run: Path) -> RunSummary | None:
    """The summary of a run; None before all its searches have ended.

    Raises:
        UserError: it is damaged, or of another kind of run.
    """
    return read_json_if_there(run / SUMMARY, RunSummary)


def read_settled(run: Path) -> Settled | None:
    """What a run was begun with where the user left it open; None before it has begun.

    Raises:
        UserError: its settings are damaged.
    """
    if not (run / FILE).is_file():
        return None
    return read_settings(run, Settled, of="`evo search`")


def read_searched(run: Path) -> Searched:
    """What a run has searched.

    Raises:
        UserError: no such run, or its settings are damaged.
    """
    return read_settings(run, Searched, of="`evo search`")


def read_search_settings(run: Path) -> dict[str, Any]:
    """All settings of a run, those that a report shows checked.

    Raises:
        UserError: no such run, or its settings are damaged.
    """
    return dict(read_settings(run, SearchSettings, of="`evo search`"))
