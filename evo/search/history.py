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
from typing import Any, Literal

import pandas as pd

from evo.algorithms.base import Proposal
from evo.errors import UserError, first_line
from evo.genome.subnet import Dimensions, Subnet
from evo.search.shard_score import ShardScore
from evo.storage.files import atomic_file, output_errors, write_whole

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


COLUMNS = tuple(Row.__dataclass_fields__)
LISTS = ("parents", "groups", "neurons")


def perplexity(nll: float) -> float:
    """The exponential, infinite where it is beyond float64, NaN of NaN."""
    return math.inf if nll >= 709 else math.exp(nll)


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
        self.parquet = directory / "history.parquet"
        self._state = directory / "state.json"
        self._journal = directory / "journal.jsonl"
        self._asked = directory / "asked.json"
        self.state: dict[str, Any] | None = None
        try:
            self.rows = self._read_rows()
            if self._state.is_file():
                self.state = json.loads(self._state.read_text())
        except (ValueError, TypeError, OSError) as error:
            raise UserError(
                f"{directory} holds a damaged history ({first_line(error)}): remove the directory "
                "to search anew"
            ) from error

    def completed(self) -> list[Row]:
        """The rows of the generations that the state has seen."""
        reached = self.state["generation"] if self.state else 0
        return [row for row in self.rows if row.generation < reached]

    def journal(self) -> dict[tuple[str, int], ShardScore]:
        """Scores since the last generation ended, by candidate and shard.

        A torn last line is left out.
        """
        if not self._journal.is_file():
            return {}
        lines = self._journal.read_bytes().split(b"\n")
        return dict(_from_json(line) for line in lines[:-1])

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
            self._asked,
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
        if not self._asked.is_file():
            return None
        try:
            content = json.loads(self._asked.read_text())
            if content["generation"] != generation:
                return None
            proposals = [
                Proposal(Subnet.unpack(base64.b64decode(genome), dimensions), operator, (*parents,))
                for genome, operator, parents in content["proposals"]
            ]
            return Asked(generation, content["rng"], proposals)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._asked} is damaged ({first_line(error)}): remove it, and the generation is "
                "proposed anew"
            ) from error

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
        write_whole(self._state, json.dumps(state))
        self.state = state
        with output_errors(self._journal):
            self._journal.write_bytes(b"")

    def _read_rows(self) -> list[Row]:
        if not self.parquet.is_file():
            return []
        records = pd.read_parquet(self.parquet).to_dict("records")
        return [
            Row(
                **{
                    str(key): tuple(value.tolist()) if key in LISTS else value  # type: ignore[arg-type]
                    for key, value in record.items()
                }
            )
            for record in records
        ]


def _to_json(candidate: str, shard: int, score: ShardScore) -> str:
    return json.dumps({"candidate": candidate, "shard": shard, **vars(score)}) + "\n"


def _from_json(line: bytes) -> tuple[tuple[str, int], ShardScore]:
    record = json.loads(line)
    unit = record.pop("candidate"), record.pop("shard")
    for name in ("nll", "divergence"):
        if record[name] is not None:
            record[name] = tuple(record[name])
    return unit, ShardScore(**record)


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table, columns in the order of `Row`."""
    records = [vars(row) | {name: list(getattr(row, name)) for name in LISTS} for row in rows]
    return pd.DataFrame(records, columns=list(COLUMNS))
