"""A chunk of a corpus to shards of token ids: one worker's part of `evo prepare`. Knows no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.data.chunks import Chunk
from evo.data.prepared_corpus import RECORDS
from evo.data.reading import Skipped
from evo.data.reading.beginning_of_text import of_documents
from evo.data.reading.npy_files import npy_tokens
from evo.data.sources import SourceRange
from evo.data.token_blocks import tokenise
from evo.data.token_shards import Shard, write_shard
from evo.errors import UserError, first_line
from evo.model.tokenizer import Tokenizer
from evo.storage.files import write_whole
from evo.storage.strict_json import loads

SHARD_TOKENS = 2**25
"""A chunk of more tokens than this becomes several shards: so many are held in memory."""


@dataclass(frozen=True)
class Record:
    """What came of a chunk.

    Attributes:
        documents: how many, empty ones left out.
        shards: in their order; none where there is no text.
        changed: when each part's file had been changed before it was read, see `Chunk.changed`.
        skipped: bad lines that were left out.
    """

    documents: int
    shards: list[Shard]
    changed: list[int]
    skipped: int = 0

    @property
    def tokens(self) -> int:
        """The number of tokens in all shards."""
        return sum(shard.tokens for shard in self.shards)


def token_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    """The smallest type for all token ids, of two or four bytes."""
    return np.dtype(np.uint16 if tokenizer.vocabulary <= 2**16 else np.int32)


def tokenise_chunk(number: int, chunk: Chunk, tokenizer: Tokenizer, directory: Path) -> Record:
    """Tokenise a chunk, write its shards, then the record that says that it is finished.

    Its files, in the directory of the corpus, are named after its number.

    Raises:
        UserError: the chunk cannot be read, or a shard cannot be written.
    """
    documents, skipped, changed = 0, Skipped(), chunk.changed

    def counted(part: SourceRange) -> Iterator[str]:
        nonlocal documents
        for document in part.documents(skipped):
            documents += bool(document)
            yield document

    def tokens() -> Iterator[NDArray[Any]]:
        for part in chunk.parts:
            try:
                if part.kind == ".npy":
                    yield from _known(npy_tokens(part), part, tokenizer)
                else:
                    bos = of_documents(part.reading, tokenizer)
                    yield from tokenise(counted(part), tokenizer, bos)
            except UserError:
                raise
            except Exception as error:  # whatever a library raises, the user needs the file's name
                raise UserError(
                    f"{part.name} cannot be tokenised: {type(error).__name__}: {first_line(error)}"
                ) from error

    shards: list[Shard] = []
    held = np.empty(SHARD_TOKENS, token_type(tokenizer))
    count = 0
    for some in tokens():
        while len(some):
            taken = min(len(some), SHARD_TOKENS - count)
            held[count : count + taken] = some[:taken]
            some, count = some[taken:], count + taken
            if count == SHARD_TOKENS:
                shards.append(write_shard(_path(directory, number, len(shards)), held))
                count = 0
    if count:
        shards.append(write_shard(_path(directory, number, len(shards)), held[:count]))
    record = Record(documents, shards, changed, skipped.count)
    write_whole(record_path(directory, number), json.dumps(asdict(record)))
    return record


def record_path(directory: Path, number: int) -> Path:
    """The path of a chunk's record."""
    return directory / RECORDS / f"{number:05d}.json"


def read_record(directory: Path, number: int) -> Record | None:
    """What came of a chunk; None where it is not finished, or its record was cut off by a crash.

    Raises:
        UserError: the record cannot be read.
    """
    path = record_path(directory, number)
    try:
        content = loads(path.read_bytes())
        shards = [Shard(**shard) for shard in content["shards"]]
        return Record(content["documents"], shards, content["changed"], content.get("skipped", 0))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _path(directory: Path, number: int, shard: int) -> Path:
    return directory / (f"{number:05d}-{shard}.arrow" if shard else f"{number:05d}.arrow")


def _known(
    chunks: Iterator[NDArray[Any]], part: SourceRange, tokenizer: Tokenizer
) -> Iterator[NDArray[Any]]:
    """Token ids from a file, once they are found to be the tokenizer's."""
    for tokens in chunks:
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= tokenizer.vocabulary:
            raise UserError(
                f"{part.name} has token id {low if low < 0 else high}, but the tokenizer's end at "
                f"{tokenizer.vocabulary - 1}"
            )
        yield tokens
