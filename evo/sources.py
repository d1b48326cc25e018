"""Sources of text: where documents come from.

A source is one of

- `stdlib:train`, `stdlib:validation`: the source text of the running Python's standard library,
  split by file; always there, no download;
- a path or glob of `.txt` (one document per file), `.jsonl` (field `text`), `.parquet` (column
  `text`) or `.npy` (token ids: 1-D is a stream to pack, 2-D is one block per row);
- `hf:REPO[:CONFIG]:SPLIT`: a data set of the Hugging Face hub, streamed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evo.errors import UserError, first_line

SUFFIXES = (".txt", ".jsonl", ".parquet", ".npy")
KINDS = (
    "stdlib:train, stdlib:validation, hf:REPO[:CONFIG]:SPLIT, or a path or glob of "
    + ", ".join(SUFFIXES)
)
STDLIB_VALIDATION_SHARE = 1 / 16


def documents(source: str) -> Iterator[str]:
    """The documents of a source of text, in a fixed order.

    Raises:
        UserError: an unknown source, or one that cannot be read.
    """
    for part in parts(source):
        yield from part.documents()


@dataclass(frozen=True)
class Part:
    """A piece of a source that is tokenised, and cached, at once.

    Attributes:
        name: of the source, or the file's path.
        path: of the file, where it is one.
    """

    name: str
    path: Path | None = None

    def documents(self) -> Iterator[str]:
        """The part's documents, in a fixed order."""
        if self.path is None:
            yield from (_stdlib if self.name.startswith("stdlib:") else _hub)(self.name)
        elif self.path.suffix == ".txt":
            try:
                yield self.path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{self.path} is not UTF-8 text: {error}") from error
        elif self.path.suffix == ".jsonl":
            yield from _jsonl(self.path)
        else:
            yield from _parquet(self.path)

    def cache_key(self) -> str | None:
        """A hash of the content, or None where only reading it all would tell."""
        digest = hashlib.blake2b(digest_size=12)
        if self.path is not None:
            digest.update(self.path.suffix.encode())
            with self.path.open("rb") as file:
                while chunk := file.read(2**24):
                    digest.update(chunk)
        elif self.name.startswith("stdlib:"):
            for document in self.documents():
                digest.update(document.encode() + b"\0")
        else:
            return None
        return digest.hexdigest()


def paths_of(source: str) -> list[Path]:
    """The files of a source that is a path or glob, sorted.

    Raises:
        UserError: there is none, or one that is no text.
    """
    found = [source] if Path(source).is_file() else glob.glob(source, recursive=True)
    paths = sorted(Path(path) for path in found)
    if not paths:
        raise UserError(f"no text at {source}: a source is {KINDS}")
    for path in paths:
        if path.suffix not in SUFFIXES or not path.is_file():
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
        return [Part(source)]
    return [Part(str(path), path) for path in paths_of(source)]


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


def _hub(source: str) -> Iterator[str]:
    fields = source.split(":")
    if len(fields) not in (3, 4) or not all(fields):
        raise UserError(f"{source} is no source: write hf:REPO[:CONFIG]:SPLIT")
    repository, split = fields[1], fields[-1]
    configuration = fields[2] if len(fields) == 4 else None
    from datasets import load_dataset

    try:
        rows = load_dataset(repository, configuration, split=split, streaming=True)
        for row in rows:
            yield _string(row["text"])
    except KeyError as error:
        raise UserError(f"{source} has no column {error}; a column `text` is needed") from error
    except (OSError, ValueError, TypeError, ConnectionError, RuntimeError) as error:
        raise UserError(f"{source} cannot be read from the hub: {first_line(error)}") from error


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}, not a string")
    return value


def _jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _string(json.loads(line)["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: no JSON object with a field `text`"
                ) from error


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise UserError(f"{path} has no column `text`, but {file.schema_arrow.names}")
        for batch in file.iter_batches(columns=["text"]):
            yield from (_string(text) for text in batch.column(0).to_pylist() if text is not None)
    except (pyarrow.ArrowException, OSError, TypeError) as error:
        raise UserError(
            f"{path} is no parquet file that can be read: {first_line(error)}"
        ) from error
