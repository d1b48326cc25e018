"""What can be made again, kept on disk where that is possible.

A cache changes nothing but times: one that cannot be written or read is told of and done without,
and what is damaged is made anew. Beside each file stands the checksum of its content.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from evo.errors import UserError, first_line
from evo.storage.checksums import checksum
from evo.storage.files import atomic_file, cache_directory, write_whole

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


def cached(
    name: str,
    make: Callable[[], Value],
    save: Callable[[Value, Path], None],
    load: Callable[[Path], Value],
) -> Value:
    """A value from the cache, or made, and kept for the next time.

    Args:
        name: of its file below the cache directory; says all that the value depends on.
        make: makes it.
        save: writes it to a file.
        load: reads a file, whose content is as `save` has written it.
    """
    try:
        path = cache_directory() / name
        if _is_whole(path):
            return load(path)
    except (UserError, OSError) as error:
        do_without(error)
        return make()
    value = make()
    try:
        with atomic_file(path) as temporary:
            save(value, temporary)
            content = checksum(temporary)
        write_whole(_checksum_file(path), content)
    except UserError as error:
        do_without(error)
    return value


def do_without(error: Exception) -> None:
    """Say, once for each reason, that the cache is not used."""
    _warn_once(f"the cache is not used: {first_line(error)}; EVO_CACHE can name a directory for it")


@lru_cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.checksum")


def _is_whole(path: Path) -> bool:
    """Whether a file is there, and as it was written."""
    if not path.is_file():
        return False
    known = _checksum_file(path)
    if known.is_file() and known.read_text(errors="replace") == checksum(path):
        return True
    logger.warning("%s is damaged, or not from this version: it is made anew", path)
    return False
