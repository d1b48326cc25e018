"""One evaluated candidate: a row of history.parquet."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import pyarrow as pa

from evo.genome.subnet import Widths
from evo.storage.records import built

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
        head_size: channels of each attention head.
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
    head_size: int
    fitness: float
    nll: float
    perplexity: float
    tokens: int
    seconds: float
    status: Status
    reason: str
    genome: bytes

    @property
    def widths(self) -> Widths:
        """The shape of the candidate."""
        return Widths(self.channels, self.groups, self.neurons, self.head_size)


SCHEMA = pa.schema(
    {
        "candidate": pa.string(),
        "generation": pa.int64(),
        "operator": pa.string(),
        "parents": pa.list_(pa.string()),
        "params": pa.int64(),
        "cost": pa.int64(),
        "layers": pa.int64(),
        "channels": pa.int64(),
        "groups": pa.list_(pa.int64()),
        "neurons": pa.list_(pa.int64()),
        "head_size": pa.int64(),
        "fitness": pa.float64(),
        "nll": pa.float64(),
        "perplexity": pa.float64(),
        "tokens": pa.int64(),
        "seconds": pa.float64(),
        "status": pa.string(),
        "reason": pa.string(),
        "genome": pa.binary(),
    }
)
"""Columns of history.parquet."""

COLUMNS = tuple(SCHEMA.names)
LISTS = ("parents", "groups", "neurons")


def table_of(rows: Iterable[Row]) -> pa.Table:
    """The rows as columns."""
    return pa.Table.from_pylist([vars(row) for row in rows], SCHEMA)


def rows_of(table: pa.Table) -> list[Row]:
    """The inverse of `table_of`.

    Raises:
        ValueError: a value is none that its column may have.
    """
    records = [
        record | {name: tuple(record[name]) for name in LISTS} for record in table.to_pylist()
    ]
    return built(records, list[Row])


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as pandas has them, columns in the order of `Row`."""
    return table_of(rows).to_pandas()


def perplexity(nll: float) -> float:
    """The exponential, infinite where it is beyond float64, NaN of NaN."""
    return math.inf if nll >= 709 else math.exp(nll)
