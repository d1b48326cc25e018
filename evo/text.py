"""Corpora to token blocks.

A source is one of

- `stdlib:train`, `stdlib:validation`: the source text of the running Python's standard library,
  split by file; always there, no download;
- a path or glob of `.txt` (one document per file), `.jsonl` (field `text`), `.parquet` (column
  `text`) or `.npy` (token ids: 1-D is a stream to pack, 2-D is one block per row);
- `hf:REPO[:CONFIG]:SPLIT`: a data set of the Hugging Face hub, streamed.

Documents are tokenised, each is followed by the end-of-text token, and the stream is packed into
blocks. What was tokenised is cached by content and tokenizer, in `$EVO_CACHE` or `~/.cache/evo`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evo.errors import UserError, first_line
from evo.files import atomic_file
from evo.tokenizer import Tokenizer

Tokens = NDArray[np.int32]
SUFFIXES = (".txt", ".jsonl", ".parquet", ".npy")
KINDS = (
    "stdlib:train, stdlib:validation, hf:REPO[:CONFIG]:SPLIT, or a path or glob of "
    + ", ".join(SUFFIXES)
)
LONGEST_DEFAULT_SEQUENCE = 2048
SAMPLED_TOKENS = 2**25
"""Of a text up to this long all is read, also where less is used."""

STDLIB_VALIDATION_SHARE = 1 / 16
DOCUMENTS_PER_BATCH = 512


@dataclass(frozen=True)
class Text:
    """Token blocks of a source.

    Attributes:
        source: as it was asked for.
        blocks: token ids, shape [N, T].
        hash: of the blocks' content, 16 hexadecimal digits.
        note: what else identifies the source; of `stdlib`, Python's version.
    """

    source: str
    blocks: Tokens
    hash: str
    note: str = ""

    @property
    def tokens(self) -> int:
        """How many tokens the blocks hold."""
        return self.blocks.size


def load_text(
    source: str,
    *,
    tokenizer: Tokenizer | None,
    vocabulary: int,
    sequence_length: int,
    max_tokens: int | None = None,
) -> Text:
    """Read, tokenise and pack a source.

    Args:
        source: see the module.
        tokenizer: not needed for `.npy`.
        vocabulary: token ids must be below it.
        sequence_length: tokens of a block. Rows of a 2-D `.npy` keep their own length, which may
            not exceed it.
        max_tokens: use no more than so many tokens, in blocks evenly spaced in what is read: the
            front of a text is no fair sample of it. Read are the first 33M tokens, or `max_tokens`
            if those are more; of a stream from the hub, which may have no end, just these.

    Raises:
        UserError: an unknown source, one that cannot be read, or text shorter than one block.
    """
    if sequence_length < 2:
        raise UserError(
            f"a sequence length of {sequence_length} leaves nothing to predict: give at least 2"
        )
    rows = _npy_rows(source)
    if rows is not None:
        if rows.shape[1] > sequence_length:
            raise UserError(
                f"{source} has rows of {rows.shape[1]} tokens, more than the sequence "
                f"length of {sequence_length}"
            )
        blocks = rows
    else:
        stream = _stream(source, tokenizer, _tokens_to_read(source, max_tokens))
        blocks = stream[: len(stream) // sequence_length * sequence_length]
        blocks = blocks.reshape(-1, sequence_length)
        if not len(blocks):
            raise UserError(
                f"{source} is too short: {len(stream)} tokens, less than one block of "
                f"{sequence_length}"
            )
    if max_tokens is not None:
        count = max_tokens // blocks.shape[1]
        if count < 1:
            raise UserError(
                f"--max-tokens {max_tokens} is less than one block of "
                f"{rows.shape[1] if rows is not None else sequence_length} tokens"
            )
        if count < len(blocks):
            blocks = blocks[np.arange(count) * len(blocks) // count]
    low, high = int(blocks.min()), int(blocks.max())
    if low < 0 or high >= vocabulary:
        raise UserError(
            f"{source} has token id {low if low < 0 else high}, but the model's "
            f"vocabulary ends at {vocabulary - 1}"
        )
    blocks = np.ascontiguousarray(blocks, np.int32)
    digest = hashlib.blake2b(np.array(blocks.shape, "<i8").tobytes(), digest_size=8)
    digest.update(blocks.data)
    note = f"Python {platform.python_version()}" if source.startswith("stdlib:") else ""
    return Text(source, blocks, digest.hexdigest(), note)


def _tokens_to_read(source: str, max_tokens: int | None) -> int | None:
    if max_tokens is None or source.startswith("hf:"):
        return max_tokens
    return max(max_tokens, SAMPLED_TOKENS)


def sequence_length_of(asked: int | None, block_size: int) -> int:
    """The tokens of a sequence: as asked for, else the model's block size, at most 2048.

    Raises:
        UserError: more than the model takes, or too few to predict anything.
    """
    length = asked if asked is not None else min(block_size, LONGEST_DEFAULT_SEQUENCE)
    if not 2 <= length <= block_size:
        raise UserError(
            f"--sequence-length {length} cannot be: give 2 to {block_size}, this model's block size"
        )
    return length


def documents(source: str) -> Iterator[str]:
    """The documents of a source of text, in a fixed order.

    Raises:
        UserError: an unknown source, or one that cannot be read.
    """
    for part in _parts(source):
        yield from part.documents()


@dataclass(frozen=True)
class _Part:
    """A piece of a source that is tokenised, and cached, at once."""

    name: str
    path: Path | None = None

    def documents(self) -> Iterator[str]:
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


def _paths(source: str) -> list[Path]:
    found = [source] if Path(source).is_file() else glob.glob(source, recursive=True)
    paths = sorted(Path(path) for path in found)
    if not paths:
        raise UserError(f"no text at {source}: a source is {KINDS}")
    for path in paths:
        if path.suffix not in SUFFIXES or not path.is_file():
            raise UserError(f"{path} is no text that can be read: a source is {KINDS}")
    return paths


def _parts(source: str) -> list[_Part]:
    if source.startswith("stdlib:"):
        if source not in ("stdlib:train", "stdlib:validation"):
            raise UserError(f"unknown source {source}: a source is {KINDS}")
        return [_Part(source)]
    if source.startswith("hf:"):
        return [_Part(source)]
    return [_Part(str(path), path) for path in _paths(source)]


def _stream(source: str, tokenizer: Tokenizer | None, max_tokens: int | None) -> Tokens:
    pieces: list[Tokens] = []
    total = 0
    for part in _parts(source):
        for piece in _tokens_of(part, tokenizer, max_tokens):
            pieces.append(piece)
            total += len(piece)
            if max_tokens is not None and total >= max_tokens:
                return np.concatenate(pieces)
    if not total:
        raise UserError(f"{source} is empty: there is no text in it")
    return np.concatenate(pieces)


def _tokens_of(
    part: _Part, tokenizer: Tokenizer | None, max_tokens: int | None
) -> Iterator[Tokens]:
    if part.path is not None and part.path.suffix == ".npy":
        yield _load_npy(part.path)
        return
    if tokenizer is None:
        raise UserError(
            f"{part.name} is text, but the checkpoint has no tokenizer: give token ids "
            "as .npy, or import the checkpoint with its tokenizer"
        )
    key = part.cache_key()
    if key is None:  # a stream from the hub may have no end: read only what is asked for
        yield from _tokenise(part.documents(), tokenizer)
        return
    cached = cache_directory() / "tokens" / f"{key}-{tokenizer.hash}-{tokenizer.end_of_text}.npy"
    if not cached.is_file():
        tokens = np.concatenate([np.empty(0, np.int32), *_tokenise(part.documents(), tokenizer)])
        with atomic_file(cached) as temporary, temporary.open("wb") as file:
            np.save(file, tokens)
    yield np.load(cached, mmap_mode="r")


def _tokenise(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[Tokens]:
    iterator = (text for text in texts if text)
    while batch := list(islice(iterator, DOCUMENTS_PER_BATCH)):
        end = np.array([tokenizer.end_of_text], np.int32)
        yield np.concatenate([part for tokens in tokenizer.encode(batch) for part in (tokens, end)])


def cache_directory() -> Path:
    """Where what can be made again is kept."""
    return Path(os.environ.get("EVO_CACHE") or Path.home() / ".cache" / "evo")


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


def _load_npy(path: Path) -> Tokens:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is no .npy file of token ids: {first_line(error)}") from error
    if not isinstance(tokens, np.ndarray):  # an archive of several
        raise UserError(f"{path} is no .npy file of token ids, but an .npz archive")
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.ndim not in (1, 2) or not tokens.size:
        raise UserError(
            f"{path} holds {tokens.dtype} of shape {tokens.shape}: token ids are "
            "integers, 1-D (a stream) or 2-D (one block per row), and not empty"
        )
    if tokens.ndim == 2 and tokens.shape[1] < 2:
        raise UserError(f"{path} has rows of one token: there is nothing to predict")
    return tokens


def _npy_rows(source: str) -> Tokens | None:
    """The rows of a 2-D `.npy` source, or None where the source is something else."""
    if source.startswith(("stdlib:", "hf:")) or not source.endswith(".npy"):
        return None
    arrays = [_load_npy(path) for path in _paths(source)]
    if all(array.ndim == 1 for array in arrays):
        return None
    if len({array.shape[1:] for array in arrays}) > 1:
        raise UserError(f"{source} mixes .npy files of different shapes")
    return np.concatenate(arrays)
