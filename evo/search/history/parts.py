"""history.parquet: a directory with a part, a file, for each generation that has ended.

Readers of parquet take such a directory for one table, in the order of the generations:
`pandas.read_parquet(RUN/searches/NAME/history.parquet)`. A part is written once, so what is written
in all is what is stored, and what is there can be read while the next one is written. Genomes are
most of it; they are read only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evo.errors import UserError
from evo.search.history.row import COLUMNS, SCHEMA, Row, rows_of, table_of
from evo.storage.files import atomic_file
from evo.storage.records import reading

PARQUET = "history.parquet"
DIGITS = 6
"""Of a generation in a file's name, so that names and generations have the same order."""

LIGHT = tuple(name for name in COLUMNS if name != "genome")
"""All columns but that which is most of a part."""


class Parts:
    """The parts of a history.

    Args:
        path: of the directory; it need not be there.

    Raises:
        UserError: it is a file, as an earlier version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._remedy = f"remove {path.parent} to search anew"
        if path.is_file():
            raise UserError(
                f"{path} is a file of an earlier version, which kept all generations in it, and "
                "is not read any more: search anew with another --out (its winners are as they "
                "were)"
            )

    def generations(self) -> list[int]:
        """The generations that have a part, in order."""
        return sorted(int(path.stem) for path in self.path.glob("*.parquet"))

    def write(self, generation: int, rows: Iterable[Row]) -> None:
        """Write the part of a generation, whole or not at all; rows come in the order of their ids.

        Raises:
            UserError: the disk is full, or the like.
        """
        table = table_of(sorted(rows, key=lambda row: row.candidate))
        with atomic_file(self._part(generation)) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def table(self, generations: Iterable[int], columns: Sequence[str] = LIGHT) -> pa.Table:
        """Some columns of some generations.

        Raises:
            UserError: a part is missing or damaged.
        """
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        return pa.concat_tables(
            [schema.empty_table(), *(self._read(one, schema) for one in generations)]
        )

    def rows(self, generation: int, candidates: Collection[str] | None = None) -> Iterator[Row]:
        """The rows of a generation, with their genomes: all, or those of some candidates.

        Raises:
            UserError: the part is missing or damaged.
        """
        table = self._read(generation, SCHEMA)
        if candidates is not None:
            kept = pa.compute.is_in(table["candidate"], pa.array(candidates, pa.string()))
            table = table.filter(kept)
        with reading(self._part(generation), self._remedy):
            yield from rows_of(table)

    def _read(self, generation: int, schema: pa.Schema) -> pa.Table:
        path = self._part(generation)
        with (
            reading(path, self._remedy),
            pq.ParquetFile(path, page_checksum_verification=True) as file,
        ):
            table = file.read(schema.names, use_threads=False)
            if not table.schema.equals(schema):
                raise ValueError("its columns are other ones")
            if any(column.null_count for column in table.columns):
                raise ValueError("a value is missing")
            if "generation" in schema.names and set(table["generation"].to_pylist()) != {
                generation
            }:
                raise ValueError("it is of another generation")
            return table

    def _part(self, generation: int) -> Path:
        return self.path / f"{generation:0{DIGITS}}.parquet"
