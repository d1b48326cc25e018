"""Sources of text: where documents come from.

A source is one of

- `stdlib:train`, `stdlib:validation`: the source text of the running Python's standard library,
  split by file; always there, no download;
- a path or glob of `.txt` (one document per file), `.jsonl` (field `text`; also compressed,
  `.jsonl.zst` and `.jsonl.gz`), `.parquet` (column `text`) or `.npy` (token ids: 1-D is a stream
  to pack, 2-D is one block per row), or a directory of such files;
- a directory that `evo prepare` wrote (see `evo.prepared`);
- `hf:REPO[@COMMIT][:CONFIG]:SPLIT`: a data set of the Hugging Face hub, streamed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from evo import hub
from evo.errors import UserError, first_line

COMPRESSED = {".jsonl.zst": "zstd", ".jsonl.zstd": "zstd", ".jsonl.gz": "gzip"}
SUFFIXES = (".txt", ".jsonl", *COMPRESSED, ".parquet", ".npy")
KINDS = (
    "stdlib:train, stdlib:validation, hf:REPO[@COMMIT][:CONFIG]:SPLIT, a directory of "
    "`evo prepare`, or a path, glob or directory of " + ", ".join(SUFFIXES)
)
STDLIB_VALIDATION_SHARE = 1 / 16

LARGEST_DOCUMENT = 2**27
"""Bytes; the tokenizer's own record of a text takes some thirty times as much memory."""


def documents(source: str) -> Iterator[str]:
    """The documents of a source of text, in a fixed order.

    Raises:
        UserError: an unknown source, or one that cannot be read.
    """
    for part in parts(source):
        yield from part.documents()


@dataclass(frozen=True)
class Part:
    """A piece of a source that is read, and tokenised, at once.

    Attributes:
        name: of the source, or the file's path.
        path: of the file, where it is one.
        start: what comes before is not of this part. Counted in bytes of a `.jsonl`, whose lines
            belong where they begin; row groups of a `.parquet`; token ids of a `.npy`; files of a
            data set of the hub.
        stop: where it ends, counted alike; None: with the file.
        version: of a data set of the hub, the one that is meant; None: whichever there is.
    """

    name: str
    path: Path | None = None
    start: int = 0
    stop: int | None = None
    version: str | None = None

    @property
    def kind(self) -> str:
        """The suffix of a file's name, or `stdlib` or `hf`."""
        if self.path is None:
            return self.name.partition(":")[0]
        return suffix(self.path)

    def documents(self) -> Iterator[str]:
        """The part's documents, in a fixed order.

        Raises:
            UserError: it cannot be read, or a document is too large to be tokenised at once.
        """
        if self.kind == ".txt" and self.path is not None:
            check_size(self.name, self.path.stat().st_size)
        for document in self._documents():
            if len(document) > LARGEST_DOCUMENT // 4:  # a character has at most four bytes
                check_size(self.name, len(document.encode("utf-8", "surrogatepass")))
            yield document

    def _documents(self) -> Iterator[str]:
        if self.path is None:
            if self.kind == "hf":
                yield from hub.documents(self.name, self.start, self.stop, expected=self.version)
            else:
                yield from _stdlib(self.name)
        elif self.kind == ".txt":
            try:
                yield self.path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{self.path} is not UTF-8 text: {error}") from error
        elif self.kind == ".parquet":
            yield from _parquet(self.path, self.start, self.stop)
        else:
            yield from _jsonl(self.path, self.start, self.stop)

    def cache_key(self) -> str | None:
        """A hash of the content, or None where only reading it all would tell."""
        digest = hashlib.blake2b(digest_size=12)
        if self.path is not None:
            digest.update(self.kind.encode())
            with self.path.open("rb") as file:
                while chunk := file.read(2**24):
                    digest.update(chunk)
        elif self.name.startswith("stdlib:"):
            for document in self.documents():
                digest.update(document.encode() + b"\0")
        else:
            return None
        return digest.hexdigest()


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


def suffix(path: Path) -> str:
    """The end of a file's name that says its kind; empty where it is none that can be read."""
    return next((one for one in SUFFIXES if path.name.endswith(one)), "")


def paths_of(source: str) -> list[Path]:
    """The files of a source that is a path, glob or directory, sorted.

    Raises:
        UserError: there is none, or one that is no text.
    """
    if Path(source).is_dir():
        inside = (path for path in Path(source).rglob("*") if path.is_file() and suffix(path))
        visible = (path for path in inside if not path.name.startswith("."))
        paths = sorted(visible)
    else:
        found = [source] if Path(source).is_file() else glob.glob(source, recursive=True)
        paths = sorted(Path(path) for path in found)
    if not paths:
        raise UserError(f"no text at {source}: a source is {KINDS}")
    for path in paths:
        if not suffix(path) or not path.is_file():
            raise UserError(f"{path} is no text that can be read: a source is {KINDS}")
    return paths


def parts(source: str) -> list[Part]:
    """What a source consists of.

    Raises:
        UserError: an unknown source.
    """
    if source.startswith("stdlib:"):
        if source not in ("stdlib:train", "stdlib:validation"):
            raise UserError(f"unknown source {source}: a source is {KINDS}")
        return [Part(source)]
    if source.startswith("hf:"):
        return [Part(hub.absolute(source))]
    # Absolute, as tasks on other nodes read them in other working directories.
    return [Part(str(path.absolute()), path.absolute()) for path in paths_of(source)]


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


def _string(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}, not a string")
    return value


def _jsonl(path: Path, start: int, stop: int | None) -> Iterator[str]:
    """The documents of the lines that begin in a range of bytes."""
    try:
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
                    yield _document(path, line, position)
                position += len(line)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


def _open(path: Path) -> BinaryIO:
    if suffix(path) not in COMPRESSED:
        return path.open("rb", buffering=2**20)
    import io

    import pyarrow

    stream = pyarrow.input_stream(str(path), compression=COMPRESSED[suffix(path)])
    return io.BufferedReader(stream, 2**20)


def _document(path: Path, line: bytes, position: int) -> str:
    try:
        return _string(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError) as error:
        with _open(path) as file:
            number = _lines(file, position) + 1
        raise UserError(f"{path}, line {number}: no JSON object with a field `text`") from error


def _lines(file: BinaryIO, size: int) -> int:
    """How many lines end in the first so many bytes."""
    count = 0
    while size and (chunk := file.read(min(size, 2**20))):
        count += chunk.count(b"\n")
        size -= len(chunk)
    return count


def _parquet(path: Path, start: int, stop: int | None) -> Iterator[str]:
    """The documents of a range of row groups."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise UserError(f"{path} has no column `text`, but {file.schema_arrow.names}")
            groups = range(start, file.num_row_groups if stop is None else stop)
            batches = file.iter_batches(1024, row_groups=list(groups), columns=["text"])
            for batch in batches:
                texts = batch.column(0).to_pylist()
                yield from map(_string, texts)
    except (pyarrow.ArrowException, OSError, TypeError) as error:
        raise UserError(
            f"{path} is no parquet file that can be read: {first_line(error)}"
        ) from error
