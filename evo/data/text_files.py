"""Files of text: their kinds, and how the documents in them are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from evo.data.hub import pause
from evo.data.reading import BadLine
from evo.errors import UserError, first_line
from evo.storage.strict_json import loads

COMPRESSED = {".jsonl.zst": "zstd", ".jsonl.zstd": "zstd", ".jsonl.gz": "gzip"}
SUFFIXES = (".txt", ".jsonl", *COMPRESSED, ".parquet", ".npy")
LARGEST_DOCUMENT = 2**27
"""Bytes; the tokenizer's own record of a text takes some thirty times as much memory."""


def suffix(path: Path) -> str:
    """The end of a file's name that says its kind; empty where it is none that can be read."""
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")


def check_size(name: str, size: int) -> None:
    """Whether a document can be tokenised in a core's share of the memory.

    Args:
        name: of the source that it is in.
        size: in bytes.

    Raises:
        UserError: it cannot.
    """
    if size > LARGEST_DOCUMENT:
        raise UserError(
            f"{name} has one document of {size / 1e6:,.0f} MB, too large to be tokenised at once: "
            f"divide it into documents of at most {LARGEST_DOCUMENT // 10**6} MB, such as lines of "
            "a .jsonl"
        )


def check_document(name: str, text: str) -> None:
    """As `check_size`, of a document that has been read."""
    if len(text) > LARGEST_DOCUMENT // 4:  # a character has at most four bytes
        check_size(name, len(text.encode("utf-8", "surrogatepass")))


def read_file(
    path: Path, start: int = 0, stop: int | None = None, field: str = "text"
) -> Iterator[str | BadLine]:
    """The documents of a file, in their order, and the lines or rows that hold none.

    Args:
        path: of any kind but `.npy`.
        start, stop: see `evo.data.sources.SourceRange`.
        field: of a line, or column, that holds the text.

    Raises:
        UserError: it holds something else than documents.
        OSError: it cannot be read, at least for now.
    """
    if suffix(path) == ".txt":
        yield _whole(path)
    elif suffix(path) == ".parquet":
        yield from _parquet(path, start, stop, field)
    else:
        yield from _jsonl(path, start, stop, field)


def wait_for_file(path: Path, error: Exception, waits: Iterator[float]) -> None:
    """Wait for the next try at a file: one on another machine may be away for a while.

    Args:
        path: of the file.
        error: of the last try.
        waits: seconds, see `evo.data.hub`.

    Raises:
        UserError: trying again is of no use, or there have been enough tries.
        Exception: the same again, where the system has not raised it.
    """
    if not isinstance(error, OSError):
        raise error
    stays = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    # Libraries call damaged content an OSError, but one without the system's number.
    passes = error.errno is not None and not isinstance(error, stays)
    if not (passes and pause(str(path), error, waits)):
        reason = error.strerror or first_line(error)
        raise UserError(f"{path} cannot be read: {reason}") from error


def _whole(path: Path) -> str:
    """A file as it stands, without the byte order mark that some systems put before it."""
    check_size(str(path), path.stat().st_size)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def _string(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}, not a string")
    return value


def _jsonl(path: Path, start: int, stop: int | None, field: str) -> Iterator[str | BadLine]:
    """The documents of the lines that begin in a range of bytes."""
    with _open(path) as file:
        position = start
        if start:  # the line that holds the byte before began before, unless it ends there
            file.seek(start - 1)
            position += len(file.readline()) - 1
        while stop is None or position < stop:
            line = file.readline()
            if not line:
                return
            if line.strip():
                try:
                    yield _string(loads(line)[field])
                except (ValueError, KeyError, TypeError):
                    yield BadLine(partial(_describe_line, path, position, field))
            position += len(line)


def _open(path: Path) -> BinaryIO:
    if suffix(path) not in COMPRESSED:
        return path.open("rb", buffering=2**20)
    import io

    import pyarrow

    stream = pyarrow.input_stream(str(path), compression=COMPRESSED[suffix(path)])
    return io.BufferedReader(stream, 2**20)


def _describe_line(path: Path, position: int, field: str) -> str:
    with _open(path) as file:
        number = _lines(file, position) + 1
    return f"{path}, line {number}: no JSON object with a field `{field}`"


def _lines(file: BinaryIO, size: int) -> int:
    """How many lines end in the first so many bytes."""
    count = 0
    while size and (chunk := file.read(min(size, 2**20))):
        count += chunk.count(b"\n")
        size -= len(chunk)
    return count


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with a file's content.

    Raises:
        UserError: instead of what pyarrow raises: names of columns need not be UTF-8, either.
        OSError: it cannot be read, at least for now.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{path} is no parquet file that can be read: {first_line(error)}"
        ) from error


def _parquet(path: Path, start: int, stop: int | None, field: str) -> Iterator[str | BadLine]:
    """The documents of a range of row groups."""
    import pyarrow.parquet

    with parquet_errors(path):
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, field)
            before = (file.metadata.row_group(number).num_rows for number in range(start))
            row = sum(before)
            groups = range(start, file.num_row_groups if stop is None else stop)
            for batch in file.iter_batches(1024, row_groups=list(groups), columns=[field]):
                yield from _texts(path, batch.column(0), row)
                row += len(batch)


def _check_column(path: Path, schema: Any, field: str) -> None:
    """Whether a parquet file has one column of strings of that name."""
    import pyarrow.types as types

    if schema.names.count(field) != 1:
        raise UserError(f"{path} has no column `{field}`, but {schema.names}")
    kind = schema.field(field).type
    text = kind.value_type if types.is_dictionary(kind) else kind
    tests = types.is_string, types.is_large_string, types.is_string_view, types.is_null
    if not any(test(text) for test in tests):
        raise UserError(f"{path}, column `{field}`: a text is {kind}, not a string")


def _texts(path: Path, column: Any, row: int) -> Iterator[str | BadLine]:
    """The texts of a column's batch, of which the first is in that row of the file."""
    try:
        yield from map(_string, column.to_pylist())
        return
    except UnicodeDecodeError:
        pass
    for number, value in enumerate(column, row + 1):
        try:
            yield _string(value.as_py())
        except UnicodeDecodeError as error:
            yield BadLine(f"{path}, row {number}: the text is not UTF-8: {error.reason}")
