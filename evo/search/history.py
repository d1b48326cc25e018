"""Every evaluation of a search, on disk: a journal while a generation runs, parquet after it.

The journal is append-only, one line per scored shard, so that a killed search scores again only
what was in flight. At the end of a generation its sums go to `history.parquet`, in canonical
order, then the strategy's state to `state.json`; each is written whole or not at all. Rows newer
than the state are results, not history: resuming asks for that generation again and finds them.
Where a model has chosen the candidates of a generation, they are in `asked.json`: another machine
might choose others, as its last bits differ.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from evo.algorithms.base import Proposal
from evo.genome.subnet import Dimensions, Subnet
from evo.search.shard_score import ShardScore
from evo.storage.files import atomic_file, output_errors, write_whole
from evo.storage.records import (
    Count,
    Name,
    Number,
    built,
    checked,
    parse,
    read_json_if_there,
    reading,
)

Status = Literal["full", "screened", "failed"]


@dataclass(frozen=True)
class Row:
    """One evaluated candidate.

    Attributes:
        candidate: its id.
        generation: in which it was proposed.
        operator: how it was made.
        parents: ids of the candidates it was made from.
        params: its parameters.
        cost: what its bin is a range of; the parameters again, where it is of those. A latency
            (femtoseconds) is the measured one, or, where scoring failed before, the predicted one.
        layers: its blocks.
        channels: its residual channels.
        groups: query groups of each block.
        neurons: MLP neurons of each block.
        fitness: what the search minimises, on what was scored; NaN where scoring failed.
        nll: mean negative log-likelihood, nats per token; NaN where scoring failed, and where the
            fitness is a proxy, for which nothing is scored.
        perplexity: its exponential.
        tokens: targets scored.
        seconds: of worker time; the only column that differs between equal runs.
        status: `full` (scored on everything), `screened` (dropped at a rung, its figures are of
            the tokens until then) or `failed`.
        reason: why it failed; empty where it did not.
        genome: the packed masks.
    """

    candidate: str
    generation: int
    operator: str
    parents: tuple[str, ...]
    params: int
    cost: int
    layers: int
    channels: int
    groups: tuple[int, ...]
    neurons: tuple[int, ...]
    fitness: float
    nll: float
    perplexity: float
    tokens: int
    seconds: float
    status: Status
    reason: str
    genome: bytes


@dataclass(frozen=True)
class Asked:
    """The candidates of a generation as a strategy has proposed them.

    Attributes:
        generation: its number.
        rng: state of the strategy's random numbers afterwards, JSON.
        proposals: the candidates.
    """

    generation: int
    rng: dict[str, Any]
    proposals: list[Proposal]


PARQUET = "history.parquet"
COLUMNS = tuple(Row.__dataclass_fields__)
LISTS = ("parents", "groups", "neurons")


def perplexity(nll: float) -> float:
    """The exponential, infinite where it is beyond float64, NaN of NaN."""
    return math.inf if nll >= 709 else math.exp(nll)


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
    elite_losses: NotRequired[dict[str, list[Number]]]
    observed: NotRequired[dict[str, list[Number]]]
    gates: NotRequired[GatesState]


class AskedFile(TypedDict):
    """`asked.json`: genomes in base 64, how they were made, and the ids of what of."""

    generation: Count
    rng: dict[str, Any]
    proposals: list[Any]


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

    Raises:
        UserError: it cannot be made, or what it holds is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with output_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.parquet = directory / PARQUET
        self.state_file = directory / "state.json"
        self._journal = directory / "journal.jsonl"
        self.asked_file = directory / "asked.json"
        self.state: dict[str, Any] | None = None
        anew = f"remove {directory} to search anew"
        with reading(self.parquet, anew):
            self.rows = self._read_rows()
        self.state = read_json_if_there(self.state_file, State, anew)  # type: ignore[assignment]
        with reading(self.parquet, anew):
            self._check_whole()

    def completed(self) -> list[Row]:
        """The rows of the generations that the state has seen."""
        reached = self.state["generation"] if self.state else 0
        return [row for row in self.rows if row.generation < reached]

    def journal(self) -> dict[tuple[str, int], ShardScore]:
        """Scores since the last generation ended, by candidate and shard.

        A torn last line is left out.

        Raises:
            UserError: another line is damaged.
        """
        if not self._journal.is_file():
            return {}
        lines = self._journal.read_bytes().split(b"\n")
        scores = {}
        for number, line in enumerate(lines[:-1], 1):
            with reading(self._journal, f"line {number}; remove the line to score that anew"):
                unit, score = _from_json(line)
                scores[unit] = score
        return scores

    def append(self, scores: Mapping[tuple[str, int], ShardScore]) -> None:
        """Write scores to the journal, at once.

        Raises:
            UserError: the disk is full, or the like.
        """
        lines = "".join(_to_json(*unit, score) for unit, score in scores.items())
        with output_errors(self._journal), self._journal.open("ab") as file:
            file.write(lines.encode())

    def keep_asked(self, asked: Asked) -> None:
        """Write down a generation's candidates before they are scored.

        Raises:
            UserError: the disk is full, or the like.
        """
        rows = [
            [base64.b64encode(one.subnet.pack()).decode(), one.operator, one.parents]
            for one in asked.proposals
        ]
        write_whole(
            self.asked_file,
            json.dumps({"generation": asked.generation, "rng": asked.rng, "proposals": rows}),
        )

    def asked(self, generation: int, dimensions: Dimensions) -> Asked | None:
        """The candidates of a generation, where they were written down.

        Args:
            generation: its number.
            dimensions: of the teacher.

        Raises:
            UserError: the file is damaged.
        """
        if not self.asked_file.is_file():
            return None
        with reading(self.asked_file, "remove it, and the generation is proposed anew"):
            content = parse(self.asked_file.read_bytes(), AskedFile)
            if content["generation"] != generation:
                return None
            proposals = [
                Proposal(Subnet.unpack(base64.b64decode(genome), dimensions), operator, (*parents,))
                for genome, operator, parents in content["proposals"]
            ]
            if not proposals:
                raise ValueError("no candidates")
            return Asked(generation, content["rng"], proposals)

    def mend(self) -> None:
        """Cut off a line that a kill left torn, so that the next one starts afresh."""
        if self._journal.is_file():
            content = self._journal.read_bytes()
            if content and not content.endswith(b"\n"):
                with output_errors(self._journal), self._journal.open("r+b") as file:
                    file.truncate(content.rfind(b"\n") + 1)

    def fold(self, rows: Iterable[Row], state: dict[str, Any]) -> None:
        """End a generation: its rows join the history, the state is written, the journal emptied.

        Raises:
            UserError: the disk is full, or the like.
        """
        self.rows = [*self.completed(), *rows]
        self.rows.sort(key=lambda row: (row.generation, row.candidate))
        with atomic_file(self.parquet) as temporary:
            frame(self.rows).to_parquet(temporary, index=False)
        write_whole(self.state_file, json.dumps(state))
        self.state = state
        with output_errors(self._journal):
            self._journal.write_bytes(b"")

    def _read_rows(self) -> list[Row]:
        if not self.parquet.is_file():
            return []
        table = pd.read_parquet(self.parquet, columns=list(COLUMNS))
        for name in LISTS:
            table[name] = [tuple(values.tolist()) for values in table[name]]
        return built(table.to_dict("records"), list[Row])

    def _check_whole(self) -> None:
        """Make sure that there are rows of every generation that the state has seen."""
        generations = self.state["generation"] if self.state else 0
        found = {row.generation for row in self.rows if row.generation < generations}
        if len(found) != generations:
            raise ValueError(f"it has rows of {len(found)} of {generations} generations")


def _to_json(candidate: str, shard: int, score: ShardScore) -> str:
    return json.dumps({"candidate": candidate, "shard": shard, **vars(score)}) + "\n"


def _from_json(line: bytes) -> tuple[tuple[str, int], ShardScore]:
    record = parse(line, dict[str, Any])
    unit = checked((record.pop("candidate"), record.pop("shard")), tuple[str, int])
    return unit, built(record, ShardScore)


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table, columns in the order of `Row`."""
    records = [vars(row) | {name: list(getattr(row, name)) for name in LISTS} for row in rows]
    return pd.DataFrame(records, columns=list(COLUMNS))
