"""Sources of text: where documents come from.

A source is one of

- `stdlib:train`, `stdlib:validation`: the source text of the running Python's standard library,
  split by file; always there, no download;
- a path or glob of `.txt` (one document per file), `.jsonl` (a field of each line; also
  compressed, `.jsonl.zst` and `.jsonl.gz`), `.parquet` (a column of strings) or `.npy` (token ids:
  1-D is a stream to pack, 2-D is one block per row), or a directory of such files;
- a directory that `evo prepare` wrote (see `evo.data.prepared_corpus`);
- `hf:REPO[@COMMIT][:CONFIG]:SPLIT`: a data set of the Hugging Face hub, streamed.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from evo.data import hub
from evo.data.hub import attempt, resumed
from evo.data.reading import PLAIN, BadLine, Reading, Skipped
from evo.data.reading.text_paths import text_paths
from evo.data.text_files import SUFFIXES, check_document, read_file, suffix, wait_for_file
from evo.errors import UserError

KINDS = (
    "stdlib:train, stdlib:validation, hf:REPO[@COMMIT][:CONFIG]:SPLIT, a directory of "
    "`evo prepare`, or a path, glob or directory of " + ", ".join(SUFFIXES)
)
STDLIB_VALIDATION_SHARE = 1 / 16

READING = 2
"""Goes up when files are read in another way: what was cached before is of no use then."""


def documents(source: str, reading: Reading = PLAIN) -> Iterator[str]:
    """The documents of a source of text, in a fixed order.

    Raises:
        UserError: an unknown source, or one that cannot be read.
    """
    for part in parts(source, reading):
        yield from part.documents()


@dataclass(frozen=True)
class SourceRange:
    """A range of a source that is read, and tokenised, at once.

    Attributes:
        name: of the source, or the file's path.
        path: of the file, where it is one.
        start: what comes before is not of this part. Counted in bytes of a `.jsonl`, whose lines
            belong where they begin; row groups of a `.parquet`; token ids of a `.npy`; files of a
            data set of the hub.
        stop: where it ends, counted alike; None: with the file.
        version: of a data set of the hub, the one that is meant; None: whichever there is.
        reading: how documents are read.
    """

    name: str
    path: Path | None = None
    start: int = 0
    stop: int | None = None
    version: str | None = None
    reading: Reading = PLAIN

    @property
    def kind(self) -> str:
        """The suffix of a file's name, or `stdlib` or `hf`."""
        if self.path is None:
            return self.name.partition(":")[0]
        return suffix(self.path)

    def documents(self, skipped: Skipped | None = None) -> Iterator[str]:
        """The part's documents, in a fixed order.

        Args:
            skipped: counts the lines that are left out; where there is none, they are told.

        Raises:
            UserError: it cannot be read, or a document is too large to be tokenised at once.
        """
        counted = Skipped() if skipped is None else skipped
        try:
            for document in self._documents():
                if not isinstance(document, BadLine):
                    check_document(self.name, document)
                    yield document
                elif self.reading.on_bad_line == "skip":
                    counted.add(document)
                else:
                    raise UserError(f"{document.describe()} (--on-bad-line skip leaves it out)")
        finally:
            if skipped is None:
                counted.tell(self.name)

    def _documents(self) -> Iterator[str | BadLine]:
        field = self.reading.text_field
        if self.path is None:
            if self.kind == "hf":
                return hub.documents(self.name, self.start, self.stop, field, expected=self.version)
            return _stdlib(self.name)
        read = partial(read_file, self.path, self.start, self.stop, field)
        return resumed(read, partial(wait_for_file, self.path))

    def cache_key(self) -> str | None:
        """A hash of the content, or None where only reading it all would tell."""
        if self.path is not None:
            read = partial(_content_hash, self.path, self.reading)
            return attempt(read, partial(wait_for_file, self.path))
        if self.kind == "hf":
            return None
        digest = hashlib.blake2b(digest_size=12)
        for document in self.documents():
            digest.update(document.encode() + b"\0")
        return digest.hexdigest()


def _content_hash(path: Path, reading: Reading) -> str:
    changes = replace(reading, bos="none").changes  # files are read alike for all of these
    how = f" {changes}" if changes else ""
    digest = hashlib.blake2b(f"{READING} {suffix(path)}{how}".encode(), digest_size=12)
    with path.open("rb") as file:
        while chunk := file.read(2**24):
            digest.update(chunk)
    return digest.hexdigest()


def paths_of(source: str) -> list[Path]:
    """The files of a source that is a path, glob or directory, sorted.

    Raises:
        UserError: there is none, or one that is no text.
    """
    paths = text_paths(source)
    if not paths:
        raise UserError(f"no text at {source}: a source is {KINDS}")
    for path in paths:
        if not suffix(path) or not path.is_file():
            raise UserError(f"{path} is no text that can be read: a source is {KINDS}")
    return paths


def parts(source: str, reading: Reading = PLAIN) -> list[SourceRange]:
    """What a source consists of.

    Args:
        source: see the module.
        reading: how its documents are read.

    Raises:
        UserError: an unknown source.
    """
    if source.startswith("stdlib:"):
        if source not in ("stdlib:train", "stdlib:validation"):
            raise UserError(f"unknown source {source}: a source is {KINDS}")
        return [SourceRange(source, reading=reading)]
    if source.startswith("hf:"):
        return [SourceRange(hub.absolute(source), reading=reading)]
    # Absolute, as tasks on other nodes read them in other working directories.
    return [
        SourceRange(str(path.absolute()), path.absolute(), reading=reading)
        for path in paths_of(source)
    ]


def _stdlib(source: str) -> Iterator[str]:
    """The standard library's files; by the hash of its path, one in 16 is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    excluded = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if excluded & set(relative.parts) or any(p.startswith("config-") for p in relative.parts):
            continue
        digest = hashlib.blake2b(relative.as_posix().encode(), digest_size=4).digest()
        held_out = int.from_bytes(digest, "big") / 2**32 < STDLIB_VALIDATION_SHARE
        if held_out == (source == "stdlib:validation"):
            yield path.read_text(encoding="utf-8", errors="replace")
