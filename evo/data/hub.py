"""Data sets of the Hugging Face hub, read as streams: `hf:REPO[@COMMIT][:CONFIG]:SPLIT`.

A data set consists of files; files are read one by one, so that each can be read by another
process, and reading can go on in the middle. A hub that fails for a while is asked again after
growing waits. A later commit must not end a run that takes weeks, so a run's settings name its data
sets with the commit, and the same command goes on with that.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from evo.data.reading import BadLine
from evo.errors import UserError, first_line
from evo.storage.records import checked, reading
from evo.storage.run_directory import FILE, read_settings

logger = logging.getLogger(__name__)

COMMIT = re.compile("[0-9a-f]{40}")

Result = TypeVar("Result")

WAITS: tuple[float, ...] = (1, 4, 16, 64, 256)
"""Seconds before each further try."""

Failed = Callable[[Exception, Iterator[float]], None]
"""It is given a try's error and the waits that are left: it returns for another try, or raises."""


def files(source: str) -> int:
    """How many files a data set has.

    Raises:
        UserError: it cannot be opened.
    """
    return attempt(lambda: _open(source)[0].num_shards, partial(_wait, source))


def version(source: str) -> str:
    """16 hexadecimal digits, of the names of a data set's files and of its commit.

    Raises:
        UserError: it cannot be opened.
    """
    return attempt(lambda: _open(source)[1], partial(_wait, source))


def pin(source: str) -> str:
    """A data set with the commit that it has now; a local directory, which has none, as it is.

    Raises:
        UserError: it cannot be opened.
    """
    name = _name(source)
    if name.commit is not None or Path(name.repository).is_dir():
        return source
    commit = attempt(lambda: _open(source)[2], partial(_wait, source))
    if commit is None:
        return source
    return str(name._replace(commit=commit))


def unpin(source: str) -> str:
    """A data set without its commit.

    Raises:
        UserError: it is no source.
    """
    return str(_name(source)._replace(commit=None))


def pin_sources(sources: Sequence[str], run: Path, setting: str) -> list[str]:
    """Sources, those of the hub with their commit.

    Args:
        sources: see `evo.data.sources`.
        run: directory of the run that reads them; where it was begun before, its commits hold.
        setting: the name that the sources have in its settings.

    Raises:
        UserError: a data set that cannot be opened, or settings that cannot be read.
    """
    before: list[str] = []
    if (run / FILE).is_file():
        recorded = read_settings(run).get(setting)
        with reading(run / FILE):
            before = checked([recorded] if isinstance(recorded, str) else recorded or [], list[str])
    pairs = zip_longest(sources, before[: len(sources)])
    return [_pin(source, earlier) for source, earlier in pairs]


def pin_optional(source: str | None, run: Path, setting: str) -> str | None:
    """One source, or none, as `pin_sources` has it."""
    return None if source is None else pin_sources([source], run, setting)[0]


def _pin(source: str, earlier: str | None) -> str:
    if not source.startswith("hf:"):
        return source
    if earlier is not None and earlier.startswith("hf:") and unpin(earlier) == source:
        return earlier
    return pin(source)


def absolute(source: str) -> str:
    """A data set in a local directory with its absolute path; one of the hub as it is.

    Raises:
        UserError: it is no source.
    """
    name = _name(source)
    directory = Path(name.repository)
    if directory.is_absolute() or not directory.is_dir():
        return source
    return str(name._replace(repository=os.path.abspath(directory)))


def identity(source: str, version: str | None) -> tuple[str, str | None]:
    """What a data set is known by: on the hub its name and version; in a local directory, wherever
    that lies, the names and sizes of its files.

    Args:
        source: `hf:REPO[@COMMIT][:CONFIG]:SPLIT`.
        version: the one that is meant, see `version`.

    Raises:
        UserError: it cannot be opened.
    """
    name = _name(source)
    directory = Path(name.repository)
    if not directory.is_dir():
        return source, version
    found = attempt(lambda: _open(source)[3], partial(_wait, source))
    sizes = [(os.path.relpath(path, directory), os.stat(path).st_size) for path in found]
    digest = hashlib.blake2b(repr(sizes).encode(), digest_size=8).hexdigest()
    return str(name._replace(repository="")), digest


def documents(
    source: str,
    start: int = 0,
    stop: int | None = None,
    field: str = "text",
    *,
    expected: str | None = None,
) -> Iterator[str | BadLine]:
    """The documents of a data set, or of some of its files, in their order, and rows without any.

    After a lost connection the file is read again up to its last row, which is slow but exact.

    Args:
        source: `hf:REPO[@COMMIT][:CONFIG]:SPLIT`.
        start: the first file.
        stop: the file before which to stop.
        field: the column that holds the text.
        expected: the version that is meant.

    Raises:
        UserError: it cannot be opened or read, also after some tries, or is of another version.
    """
    if expected is not None and version(source) != expected:
        raise UserError(f"{source} is not what it was: it has changed on the hub")
    for file in range(start, files(source) if stop is None else stop):
        yield from resumed(partial(_texts, source, file, field), partial(_wait, source))


def _texts(source: str, file: int, field: str) -> Iterator[str | BadLine]:
    rows = _open(source)[0]
    for number, row in enumerate(rows.shard(num_shards=rows.num_shards, index=file), 1):
        if field not in row:
            raise UserError(f"{source} has no column '{field}', but {sorted(row)}")
        text = row[field] if row[field] is not None else ""
        if isinstance(text, str):
            yield text
        else:
            where = f"{source}, file {file + 1}, row {number}"
            yield BadLine(f"{where}: a text is {type(text).__name__}, not a string")


class _Name(NamedTuple):
    """A source, taken apart."""

    repository: str
    commit: str | None
    configuration: str | None
    split: str

    def __str__(self) -> str:
        """The source again."""
        repository = self.repository if self.commit is None else f"{self.repository}@{self.commit}"
        return ":".join(["hf", repository, *filter(None, [self.configuration]), self.split])


def _name(source: str) -> _Name:
    fields = source.split(":")
    if len(fields) not in (3, 4) or not all(fields):
        raise UserError(f"{source} is no source: write hf:REPO[@COMMIT][:CONFIG]:SPLIT")
    configuration = fields[2] if len(fields) == 4 else None
    repository, at, commit = fields[1].rpartition("@")
    if not at or Path(fields[1]).is_dir():
        return _Name(fields[1], None, configuration, fields[-1])
    if not COMMIT.fullmatch(commit):
        raise UserError(f"{source}: {commit!r} is no commit, which has 40 hexadecimal digits")
    return _Name(repository, commit, configuration, fields[-1])


@lru_cache(maxsize=8)
def _open(source: str) -> tuple[Any, str, str | None, list[str]]:
    """The data set as a stream, its version, its commit where it has one, and its files; the hub is
    asked once for what it consists of."""
    repository, commit, configuration, split = _name(source)
    from datasets import load_dataset_builder

    builder = load_dataset_builder(repository, configuration, revision=commit)
    found = (builder.config.data_files or {}).get(split)
    if found is None:
        raise UserError(f"{source}: {repository} has no split {split!r} that consists of files")
    content = repr((list(found), found.origin_metadata))
    version = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    made_of = str(builder.hash)
    commit = made_of if COMMIT.fullmatch(made_of) else None
    return builder.as_streaming_dataset(split), version, commit, list(found)


def _wait(source: str, error: Exception, waits: Iterator[float]) -> None:
    """Wait for the next try; `datasets` itself tries for some minutes before it gives up.

    Raises:
        UserError: trying again is of no use, or there have been enough tries.
        Exception: the same again, where it is none that reading raises.
    """
    from aiohttp import ClientError
    from datasets.exceptions import DatasetsError
    from httpx import HTTPError

    connection = (OSError, ClientError, HTTPError)
    if not isinstance(error, (*connection, DatasetsError, ValueError, TypeError, RuntimeError)):
        raise error
    passes = isinstance(error, connection) and not _is_final(error)
    if not (passes and pause(source, error, waits)):
        raise UserError(f"{source} cannot be read from the hub: {first_line(error)}") from error


def _is_final(error: Exception) -> bool:
    """Whether there is no such data set for us, or no connection that could come back."""
    from datasets import config
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return error.response.status_code < 500 and error.response.status_code != 429
    offline = config.HF_HUB_OFFLINE and isinstance(error, ConnectionError)
    return offline or isinstance(error, DatasetsError)


def attempt(action: Callable[[], Result], failed: Failed) -> Result:
    """What an action returns, once it does not fail."""
    waits = iter(WAITS)
    while True:
        try:
            return action()
        except Exception as error:
            failed(error, waits)


def resumed(read: Callable[[], Iterator[Result]], failed: Failed) -> Iterator[Result]:
    """What is read, in its order; after a failure, `read` begins again, and what it gave before is
    passed over, which is slow but exact."""
    seen = 0
    waits = iter(WAITS)
    while True:
        try:
            for item in islice(read(), seen, None):
                yield item
                seen += 1
                waits = iter(WAITS)
            return
        except Exception as error:
            failed(error, waits)


def pause(name: str, error: Exception, waits: Iterator[float]) -> bool:
    """Wait before the next try, and say why; False, at once, where there have been enough."""
    seconds = next(waits, None)
    if seconds is None:
        return False
    logger.warning("%s: %s; trying again in %g s", name, first_line(error), seconds)
    time.sleep(seconds)
    return True
