"""A corpus cut into pieces of bounded size, which can be tokenised one without the other.

The documents of the pieces, one after the other, are those of the sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from evo.data import hub
from evo.data.sources import Part, parts
from evo.data.text_files import check_size
from evo.data.token_blocks import load_npy
from evo.errors import UserError, first_line

PIECE_BYTES = 2**26
"""Of text; about 16M tokens."""

MOST_PIECES = 2**14
"""Of a corpus of more than a terabyte, the pieces are larger instead of more."""

TEXT_BYTES_PER_TOKEN = 4
"""About; so that a piece of token ids takes as long as one of text, or less."""


@dataclass(frozen=True)
class Piece:
    """Parts of sources that are tokenised together.

    Attributes:
        parts: in their order.
        size: about how many bytes of text; None where that is not known.
    """

    parts: tuple[Part, ...]
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


def pieces_of(sources: Sequence[str], most: int | None = None) -> list[Piece]:
    """Cut a corpus into pieces; a function of the sources alone.

    Args:
        sources: see `evo.data.sources`.
        most: bytes of a piece; by default 64 MiB, more for very large corpora. Files are joined
            up to that size. What cannot be divided may be larger: a `.txt` (one document), a
            compressed file, a row group of a parquet file, a file of the hub.

    Raises:
        UserError: a source that cannot be read.
    """
    whole = [part for source in sources for part in parts(source)]
    if most is None:
        most = max(PIECE_BYTES, sum(map(file_bytes, whole)) // MOST_PIECES)
    return list(_join((piece for part in whole for piece in _divide(part, most)), most))


def file_bytes(part: Part) -> int:
    """The size of a part's file; 0 where it is none."""
    return 0 if part.path is None else part.path.stat().st_size


def _divide(part: Part, most: int) -> Iterator[Piece]:
    """A whole file or data set in pieces of at most so many bytes, as far as it can be divided."""
    if part.kind == "hf":
        version = hub.version(part.name)
        for number in range(hub.files(part.name)):
            yield Piece((replace(part, start=number, stop=number + 1, version=version),), None)
    elif part.path is not None and part.kind == ".parquet":
        yield from _row_groups(part, _row_group_bytes(part.path), most)
    elif part.path is not None and part.kind == ".npy":
        yield from _ranges(part, load_npy(part.path).size, most, TEXT_BYTES_PER_TOKEN)
    elif part.kind == ".jsonl":
        yield from _ranges(part, file_bytes(part), most, 1)
    else:
        if part.kind == ".txt":
            check_size(part.name, file_bytes(part))
        size = None if part.path is None else file_bytes(part)
        if size != 0:
            yield Piece((part,), size)


def _ranges(part: Part, units: int, most: int, unit_bytes: int) -> Iterator[Piece]:
    count = -(-units * unit_bytes // most)
    if not count:
        return
    bounds = [units * number // count for number in range(count + 1)]
    for start, stop in pairwise(bounds):
        yield Piece((replace(part, start=start, stop=stop),), (stop - start) * unit_bytes)


def _row_groups(part: Part, sizes: Sequence[int], most: int) -> Iterator[Piece]:
    start = size = 0
    for number, more in enumerate(sizes):
        if size and size + more > most:
            yield Piece((replace(part, start=start, stop=number),), size)
            start, size = number, 0
        size += more
    yield Piece((replace(part, start=start, stop=len(sizes)),), size)


def _row_group_bytes(path: Path) -> list[int]:
    """Of the texts in each row group, uncompressed."""
    import pyarrow
    import pyarrow.parquet

    try:
        about = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is no parquet file that can be read: {first_line(error)}"
        ) from error
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    return [
        sum(
            column.total_uncompressed_size
            for column in map(group.column, range(group.num_columns))
            if column.path_in_schema == "text"
        )
        for group in groups
    ]


def _join(pieces: Iterable[Piece], most: int) -> Iterator[Piece]:
    """Neighbours in one piece while they are small; what is of unknown size stays alone."""
    held: list[Part] = []
    size = 0
    for piece in pieces:
        if held and (piece.size is None or size + piece.size > most):
            yield Piece(tuple(held), size)
            held, size = [], 0
        if piece.size is None:
            yield piece
            continue
        held += piece.parts
        size += piece.size
    if held:
        yield Piece(tuple(held), size)
