"""The files of text that a path, a glob or a directory stands for."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from evo.data.text_files import suffix

logger = logging.getLogger(__name__)

MOST_NAMES = 5
"""At most this number of things that are left out is named."""


def text_paths(source: str) -> list[Path]:
    """The files of a source, sorted; of a directory, all files of text that are visible in it.

    Links to directories are followed. A directory is read once, however many links lead to it.

    Raises:
        OSError: a directory that cannot be read.
    """
    if not Path(source).is_dir():
        found = [source] if Path(source).is_file() else glob.glob(source, recursive=True)
        return sorted(_each_once(map(Path, found)))
    files, links = _below(Path(source))
    texts = [path for path in files if suffix(path) and path.is_file()]
    others = [path for path in files if not suffix(path) and path.is_file()]
    kinds = Counter(path.suffix or path.name for path in others).most_common()
    _tell(source, "files of other kinds", len(others), [f"{n} {kind}" for kind, n in kinds])
    links += [path for path in files if path.is_symlink() and not path.exists()]
    names = sorted(str(path.relative_to(source)) for path in links)
    _tell(source, "links that lead back or nowhere", len(links), names)
    return sorted(texts)


def _below(source: Path) -> tuple[list[Path], list[Path]]:
    """All visible files in a directory, and the links to directories that were not followed."""
    files: list[Path] = []
    left_out: list[Path] = []
    real = source.resolve()
    seen = {real, *real.parents}  # a link to what holds the source leads back
    tops = [source]
    for top in tops:
        links = []
        for base, directories, names in os.walk(top, onerror=_refuse):
            kept = []
            for path in (Path(base, name) for name in sorted(filter(_visible, directories))):
                if path.is_symlink():
                    links.append(path)
                elif path.resolve() not in seen:
                    seen.add(path.resolve())
                    kept.append(path.name)
            directories[:] = kept
            files += [Path(base, name) for name in names if _visible(name)]
        # What lies in the source itself is read there, and not where a link leads to it.
        for link in sorted(links):
            (left_out if link.resolve() in seen else tops).append(link)
            seen.add(link.resolve())
    return files, left_out


def _visible(name: str) -> bool:
    return not name.startswith(".")


def _refuse(error: OSError) -> None:
    raise error


def _each_once(paths: Iterable[Path]) -> Iterator[Path]:
    """Files without those that a glob finds again through links to directories."""
    seen = set()
    for path in sorted(paths, key=lambda path: (len(path.parts), path)):
        place = path.parent.resolve(), path.name
        if place not in seen:
            seen.add(place)
            yield path


def _tell(source: str, what: str, count: int, names: Sequence[str]) -> None:
    if count:
        listed = ", ".join([*names[:MOST_NAMES], *["..."] * (len(names) > MOST_NAMES)])
        _tell_once(f"{source}: {count} {what} are left out: {listed}")


@lru_cache  # a command looks into its sources several times
def _tell_once(message: str) -> None:
    logger.info("%s", message)
