"""What a file system refused, found in the exception of whichever library met it.

Python's own writes raise an `OSError` with its number. Others hide it: torch's zip writer tells of
positions in a file, numpy of bytes requested, safetensors and pyarrow of a text.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of a file system, or a part of one that a user may fill, on which there is no space."""

TEXTS = {number: os.strerror(number) for number in (*FULL, errno.EROFS, errno.EIO)}

PROBE_BYTES = 2**16
"""A file of this size is written to find out whether a file system still takes any."""


def refusal(error: BaseException, path: Path) -> str | None:
    """What the file system refused to the writer of a path; None where an error is of another kind.

    Args:
        error: what was raised in writing, while the unfinished file still takes its space.
        path: of the file or directory that is written.
    """
    number = _number(error)
    if number is None and isinstance(error, OSError | RuntimeError):
        number = _probed(path)
    if number is not None:
        return f"{TEXTS[number]}{_where(number, path)}"
    if isinstance(error, OSError) and not _is_elsewhere(error, path):
        return error.strerror or str(error)
    return None


def is_full(error: BaseException) -> bool:
    """Whether an exception tells, in whichever words, that there is no space on a disk."""
    return _number(error) in FULL


def _number(error: BaseException) -> int | None:
    """The number of the operating system's error that an exception is, comes of, or quotes."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in TEXTS:
            return each.errno
        for number, text in TEXTS.items():
            if text in str(each):
                return number
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _probed(path: Path) -> int | None:
    """The number of the error with which the path's file system refuses a further file."""
    try:
        with tempfile.TemporaryFile(dir=_existing(path)) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno if error.errno in TEXTS else None
    return None


def _where(number: int, path: Path) -> str:
    """The file system that is full, as an administrator knows it."""
    if number not in FULL or number == errno.EFBIG:
        return ""
    mount = _existing(path)
    while not os.path.ismount(mount):
        mount = mount.parent
    return f" (on the file system at {mount})"


def _existing(path: Path) -> Path:
    """The nearest directory above a path that is there, absolute."""
    return next(each for each in path.absolute().parents if each.is_dir())


def _is_elsewhere(error: OSError, path: Path) -> bool:
    """Whether an error names a file that is no part of what is written, such as an input."""
    if error.filename is None:
        return False
    named, parent = Path(os.path.abspath(os.fspath(error.filename))), path.absolute().parent
    return not (named.is_relative_to(parent) or parent.is_relative_to(named))
