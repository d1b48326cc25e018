"""A corpus cut into chunks of bounded size, which can be tokenised one without the other.

The documents of the chunks, one after the other, are those of the sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from evo.data import hub
from evo.data.reading import PLAIN, Reading
from evo.data.reading.npy_files import load_npy
from evo.data.sources import SourceRange, parts
from evo.data.text_files import check_size, parquet_errors
from evo.errors import UserError

CHUNK_BYTES = 2**26
"""The size of a chunk of text, about 16M tokens."""

MOST_PIECES = 2**14
"""A corpus of more than a terabyte has larger chunks instead of more."""

TEXT_BYTES_PER_TOKEN = 4
"""About; so that a chunk of token ids takes as long as one of text, or less."""


@dataclass(frozen=True)
class Chunk:
    """Parts of sources that are tokenised together.

    Attributes:
        parts: in their order.
        size: about how many bytes of text; None where that is not known.
    """

    parts: tuple[SourceRange, ...]
    size: int | None

    @property
    def name(self) -> str:
        """What its parts are called, short enough for a message."""
        names = list(dict.fromkeys(part.name for part in self.parts))
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"

    @property
    def changed(self) -> list[int]:
        """When each part's file was changed, in ns of the epoch; 0 of what is no file."""
        return [0 if part.path is None else part.path.stat().st_mtime_ns for part in self.parts]


def chunks_of(
    sources: Sequence[str], most: int | None = None, reading: Reading = PLAIN
) -> list[Chunk]:
    """Cut a corpus into chunks; a function of the sources alone.

    Args:
        sources: see `evo.data.sources`.
        most: bytes of a chunk; by default 64 MiB, more for very large corpora. Files are joined
            up to that size. What cannot be divided may be larger: a `.txt` (one document), a
            compressed file, a row group of a parquet file, a file of the hub.
        reading: how documents are read.

    Raises:
        UserError: a source that cannot be read.
    """
    whole = [part for source in sources for part in parts(source, reading)]
    if most is None:
        most = max(CHUNK_BYTES, sum(map(file_bytes, whole)) // MOST_PIECES)
    return list(_join((chunk for part in whole for chunk in _divide(part, most)), most))


def file_bytes(part: SourceRange) -> int:
    """The size of a part's file; 0 where it is none."""
    return 0 if part.path is None else part.path.stat().st_size


def _divide(part: SourceRange, most: int) -> Iterator[Chunk]:
    """A whole file or data set in chunks of at most so many bytes, as far as it can be divided."""
    if part.kind == "hf":
        version = hub.version(part.name)
        for number in range(hub.files(part.name)):
            yield Chunk((replace(part, start=number, stop=number + 1, version=version),), None)
    elif part.path is not None and part.kind == ".parquet":
        yield from _row_groups(part, _row_group_bytes(part.path, part.reading.text_field), most)
    elif part.path is not None and part.kind == ".npy":
        yield from _ranges(part, load_npy(part.path).size, most, TEXT_BYTES_PER_TOKEN)
    elif part.kind == ".jsonl":
        yield from _ranges(part, file_bytes(part), most, 1)
    else:
        if part.kind == ".txt":
            check_size(part.name, file_bytes(part))
        size = None if part.path is None else file_bytes(part)
        if size != 0:
            yield Chunk((part,), size)


def _ranges(part: SourceRange, units: int, most: int, unit_bytes: int) -> Iterator[Chunk]:
    count = -(-units * unit_bytes // most)
    if not count:
        return
    bounds = [units * number // count for number in range(count + 1)]
    for start, stop in pairwise(bounds):
        yield Chunk((replace(part, start=start, stop=stop),), (stop - start) * unit_bytes)


def _row_groups(part: SourceRange, sizes: Sequence[int], most: int) -> Iterator[Chunk]:
    start = size = 0
    for number, more in enumerate(sizes):
        if size and size + more > most:
            yield Chunk((replace(part, start=start, stop=number),), size)
            start, size = number, 0
        size += more
    yield Chunk((replace(part, start=start, stop=len(sizes)),), size)


def _row_group_bytes(path: Path, field: str) -> list[int]:
    """The uncompressed size of the texts in each row group."""
    import pyarrow.parquet

    try:
        with parquet_errors(path):
            about = pyarrow.parquet.read_metadata(path)
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            return [
                sum(
                    column.total_uncompressed_size
                    for column in map(group.column, range(group.num_columns))
                    if column.path_in_schema == field
                )
                for group in groups
            ]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _join(chunks: Iterable[Chunk], most: int) -> Iterator[Chunk]:
    """Neighbours in one chunk while they are small; what is of unknown size stays alone."""
    held: list[SourceRange] = []
    size = 0
    for chunk in chunks:
        if held and (chunk.size is None or size + chunk.size > most):
            yield Chunk(tuple(held), size)
            held, size = [], 0
        if chunk.size is None:
            yield chunk
            continue
        held += chunk.parts
        size += chunk.size
    if held:
        yield Chunk(tuple(held), size)
