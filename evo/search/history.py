"""Every evaluation of a search, on disk: a journal while a generation runs, parquet after it.

The journal is append-only, one line per scored shard, so that a killed search scores again only
what was in flight. At the end of a generation its sums go to `history.parquet`, in canonical
order, then the strategy's state to `state.json`; each is written whole or not at all. Rows newer
than the state are results, not history: resuming asks for that generation again and finds them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from evo.errors import UserError, first_line
from evo.storage.files import atomic_file, output_errors

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


COLUMNS = tuple(Row.__dataclass_fields__)


@dataclass(frozen=True)
class Shard:
    """The score of one candidate on one shard.

    Attributes:
        candidate: its id.
        shard: index of the shard.
        nll: of each sequence, summed over its targets, nats; empty where it failed.
        tokens: targets of all sequences; 0 where it failed.
        seconds: of worker time.
        failure: why it failed; None where it did not.
        divergence: KL from the teacher, likewise, where the fitness is that.
        latency: of the candidate, femtoseconds, measured with its first shard where the cost is
            that; None elsewhere.
    """

    candidate: str
    shard: int
    nll: tuple[float, ...]
    tokens: int
    seconds: float
    failure: str | None = None
    divergence: tuple[float, ...] | None = None
    latency: int | None = None

    @property
    def losses(self) -> tuple[float, ...]:
        """Of each sequence, what the fitness is a mean of."""
        return self.nll if self.divergence is None else self.divergence

    @classmethod
    def from_json(cls, line: bytes) -> Shard:
        """The inverse of `json.dumps(asdict(shard))`."""
        record = json.loads(line)
        divergence = record.pop("divergence")
        return cls(
            **record | {"nll": tuple(record["nll"])},
            divergence=None if divergence is None else tuple(divergence),
        )


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

    def told(self) -> list[Row]:
        """The rows of the generations that the state has seen."""
        reached = self.state["generation"] if self.state else 0
        return [row for row in self.rows if row.generation < reached]

    def journal(self) -> list[Shard]:
        """Shards scored since the last generation ended; a torn last line is left out."""
        if not self._journal.is_file():
            return []
        lines = self._journal.read_bytes().split(b"\n")
        return [Shard.from_json(line) for line in lines[:-1]]

    def append(self, shards: Iterable[Shard]) -> None:
        """Write scored shards to the journal, at once.

        Raises:
            UserError: the disk is full, or the like.
        """
        lines = "".join(json.dumps(asdict(shard)) + "\n" for shard in shards)
        with output_errors(self._journal), self._journal.open("ab") as file:
            file.write(lines.encode())

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
        self.rows = [*self.told(), *rows]
        self.rows.sort(key=lambda row: (row.generation, row.candidate))
        with atomic_file(self.parquet) as temporary:
            frame(self.rows).to_parquet(temporary, index=False)
        with atomic_file(self._state) as temporary:
            temporary.write_text(json.dumps(state))
        self.state = state
        with output_errors(self._journal):
            self._journal.write_bytes(b"")

    def _read_rows(self) -> list[Row]:
        if not self.parquet.is_file():
            return []
        lists = ("parents", "groups", "neurons")
        records = pd.read_parquet(self.parquet).to_dict("records")
        return [
            Row(
                **{
                    str(key): tuple(value.tolist()) if key in lists else value  # type: ignore[arg-type]
                    for key, value in record.items()
                }
            )
            for record in records
        ]


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table, columns in the order of `Row`."""
    records = [
        {
            **vars(row),
            "parents": list(row.parents),
            "groups": list(row.groups),
            "neurons": list(row.neurons),
        }
        for row in rows
    ]
    return pd.DataFrame(records, columns=list(COLUMNS))
