"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from evo.errors import UserError
from evo.storage.refusals import refusal

ABANDONED_SECONDS = 24 * 3600
"""The time without a change after which nobody writes to a temporary directory any more."""

LOOK_SECONDS = 0.1
"""A lock that another process holds is tried again this often."""


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write (no space, no permission, a file in the way) to one line.

    Raises:
        UserError: instead of an `OSError`, or of what another library makes of it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (refused := refusal(error, path)) is None:
            raise
        raise UserError(f"cannot write {path}: {refused}") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; it becomes `path` at the end, and goes on an error.

    Raises:
        UserError: the place cannot be written to.
    """
    # Machines and containers that share a file system have processes of the same numbers.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with output_errors(path):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        UserError: the place cannot be written to.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    """Wait until a file, or a directory's list of names, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_occupied(path: Path) -> None:
    """Refuse an output directory that could not be written at the end, before any work.

    Raises:
        UserError: there is something at `path` already, or a file where it needs a directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: name an output that does not")
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UserError(f"cannot write {path}: {parent} is a file")
            break


@contextmanager
def exclusive(directory: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes of this machine from working in a directory at the same time.

    Args:
        directory: the directory.
        patience: seconds for which another process may go on; one whose driver was killed soon
            ends.

    Raises:
        UserError: another one is at work there.
    """
    until = time.monotonic() + patience
    with output_errors(directory):
        file = (directory / ".lock").open("w")
    with file:
        while not _locked(file):
            if time.monotonic() >= until:
                raise UserError(
                    f"another process is at work in {directory}: wait for it, or name another --out"
                )
            time.sleep(LOOK_SECONDS)
        yield


def _locked(file: IO[str]) -> bool:
    """Lock a file, if no other process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Make a temporary directory; it is renamed to `path` at the end, or removed on an error.

    An empty directory at `path` is replaced.

    Raises:
        UserError: there is something at `path` already, or the place cannot be written to.
    """
    with output_errors(path):
        refuse_occupied(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with output_errors(path):
            temporary.chmod(0o755)
            yield temporary
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary directories for `path` in which nothing has changed for a day: their
    processes were killed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            changes = [path.stat().st_mtime for path in (left, *left.rglob("*"))]
        except FileNotFoundError:  # another process is just finishing it
            continue
        if time.time() - max(changes) > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def cache_directory() -> Path:
    """The directory of what can be made again: `$EVO_CACHE`, or `~/.cache/evo`.

    Raises:
        UserError: neither is there, as in a container whose user has no home.
    """
    named = os.environ.get("EVO_CACHE")
    try:
        return Path(named) if named else Path.home() / ".cache" / "evo"
    except RuntimeError as error:
        raise UserError("there is no home directory for ~/.cache/evo") from error
