"""Files compared with the checksums that were taken when they were written."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evo.errors import UserError
from evo.storage.files import cache_directory, write_whole
from evo.storage.strict_json import loads

logger = logging.getLogger(__name__)

NOTICED_BYTES = 2**30
"""A check of more bytes than this takes seconds, and is logged."""

MOST_NAMES = 20
"""At most this number of wrong files is listed."""


@dataclass(frozen=True)
class Summed:
    """A file and what it held when it was written.

    Attributes:
        file: its name.
        bytes: its size.
        checksum: of its content, see `checksum`.
    """

    file: str
    bytes: int
    checksum: str


def checksum(path: Path) -> str:
    """BLAKE2b of a file's content, 32 hexadecimal digits, as `b2sum --length 128` prints it."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def check(directory: Path, files: Sequence[Summed], made_by: str) -> None:
    """Compare files with their checksums.

    `made_by` is the command that makes them anew.

    Raises:
        UserError: one is missing or damaged.
    """
    wrong = damaged(directory, files)
    if not wrong:
        return
    for file, what in list(wrong.items())[:MOST_NAMES] if len(wrong) > 1 else ():
        logger.warning("%s is %s", directory / file, what)
    file, what = next(iter(wrong.items()))
    others = f", and so are {len(wrong) - 1} others" if len(wrong) > 1 else ""
    raise UserError(
        f"{directory / file} is {what}{others}: run the same `{made_by}` again, which makes "
        "just those anew"
    )


def damaged(directory: Path, files: Sequence[Summed]) -> dict[str, str]:
    """The files that are `missing` or `damaged`, by their names.

    A file of the same size and time of change as when it was last found right is not read again;
    the cache directory keeps both. The others are read several at once.
    """
    known: dict[str, Any] = _read(directory)
    stamps: dict[str, list[Any]] = {}
    wrong: dict[str, str] = {}
    for entry in files:
        try:
            status = (directory / entry.file).stat()
        except FileNotFoundError:
            wrong[entry.file] = "missing"
            continue
        stamps[entry.file] = [entry.checksum, status.st_size, status.st_mtime_ns]
        if status.st_size != entry.bytes:
            wrong[entry.file] = "damaged"
    unknown = [
        entry
        for entry in files
        if entry.file not in wrong and known.get(entry.file) != stamps[entry.file]
    ]
    if not unknown:
        return wrong
    total = sum(entry.bytes for entry in unknown)
    if total > NOTICED_BYTES:
        logger.info("checking %d files of %s, %.1f GB", len(unknown), directory, total / 1e9)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda entry: checksum(directory / entry.file), unknown)
        for entry, content in zip(unknown, found, strict=True):
            if content != entry.checksum:
                wrong[entry.file] = "damaged"
    right = {name: stamp for name, stamp in (known | stamps).items() if name not in wrong}
    _keep(directory, right)
    return wrong


def _known_file(directory: Path) -> Path:
    name = hashlib.blake2b(str(directory.resolve()).encode(), digest_size=8).hexdigest()
    return cache_directory() / "checked" / f"{name}.json"


def _keep(directory: Path, right: dict[str, Any]) -> None:
    """Keep what was found right; where it cannot be kept, everything is read again next time."""
    try:
        write_whole(_known_file(directory), json.dumps(right))
    except UserError as error:
        _warn_once(f"{error}: checksums are compared anew at every start")


@lru_cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _read(directory: Path) -> dict[str, Any]:
    """What was found right before; nothing where that is lost or damaged."""
    try:
        known = loads(_known_file(directory).read_bytes())
    except (OSError, ValueError, UserError):
        return {}
    return known if isinstance(known, dict) else {}
