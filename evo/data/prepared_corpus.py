"""What `evo prepare` wrote: a corpus as token ids, read where it lies.

A directory with `manifest.json` and shards (see `evo.data.token_shards`). The shards, in the
manifest's order, are one stream of tokens: every document's, each followed by the end-of-text
token. A corpus may be larger than the memory by any factor.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.data.reading import PLAIN, Reading
from evo.data.reading.beginning_of_text import of_blocks
from evo.data.token_shards import Blocks, Shard, map_tokens, spaced
from evo.errors import UserError, first_line
from evo.model.tokenizer import Tokenizer
from evo.storage.checksums import check
from evo.storage.files import write_whole
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.strict_json import loads

MANIFEST = "manifest.json"

MADE_BY = "evo prepare"

RECORDS = "records"
"""A directory of what came of each chunk, kept to mend what is damaged later."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared corpus consists of.

    Attributes:
        text: the sources, as they were given.
        files: of each of their files the name and the size in bytes; of the hub's data sets a hash
            of the names and the commit.
        tokenizer_hash: of the tokenizer that made the token ids.
        end_of_text: the token id after each document.
        sequence_length: tokens of a block; None: a stream, to be cut to blocks of any length.
        documents: how many, empty ones left out, token ids from a `.npy` not counted.
        tokens: how many in all shards.
        dtype: of the stored token ids.
        shards: in the order of the stream.
        skipped: bad lines that were left out.
        bos: where a beginning-of-text token stands, see `evo.data.reading.Reading`.
    """

    text: list[str]
    files: list[dict[str, Any]]
    tokenizer_hash: str
    end_of_text: int
    sequence_length: int | None
    documents: int
    tokens: int
    dtype: str
    shards: list[Shard]
    skipped: int = 0
    bos: str = "none"

    def save(self, directory: Path) -> None:
        """Write `manifest.json`.

        Raises:
            UserError: it cannot be written.
        """
        blocks = self.tokens // self.sequence_length if self.sequence_length else None
        content = asdict(self) | {"blocks": blocks}
        write_whole(directory / MANIFEST, json.dumps(content, indent=1) + "\n")

    @staticmethod
    def load(directory: Path) -> Manifest:
        """Read `manifest.json`.

        Raises:
            UserError: it is damaged.
        """
        path = directory / MANIFEST
        try:
            content = {"skipped": 0, "bos": "none", **loads(path.read_bytes())}
            content["shards"] = [Shard(**shard) for shard in content["shards"]]
            manifest = Manifest(**{field.name: content[field.name] for field in fields(Manifest)})
            manifest.check()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no manifest of `evo prepare`: {first_line(error)}"
            ) from error
        return manifest

    def check(self) -> None:
        """Make sure that all that is reckoned with is of its type.

        Raises:
            ValueError: something is not.
        """
        numbers = [self.end_of_text, self.documents, self.tokens, self.skipped]
        for shard in self.shards:
            if not isinstance(shard.file, str) or not isinstance(shard.checksum, str):
                raise ValueError(f"{shard.file!r} is no shard's name")
            numbers += [shard.bytes, shard.tokens, shard.largest]
        if not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers):
            raise ValueError("it counts by something else than whole numbers")
        if self.tokens != sum(shard.tokens for shard in self.shards):
            raise ValueError("its shards have other tokens than it counts")
        length = self.sequence_length
        if length is not None and not (isinstance(length, int) and length > 1):
            raise ValueError(f"{length!r} is no length of a sequence")
        if not isinstance(self.text, list) or not isinstance(self.files, list):
            raise ValueError("it names no sources")


def is_prepared(source: str) -> bool:
    """Whether a source is a directory of `evo prepare`, finished or not."""
    if source.startswith(("stdlib:", "hf:")):
        return False
    directory = Path(source)
    is_begun = (directory / RECORDS).is_dir() and (directory / SETTINGS).is_file()
    return is_begun or (directory / MANIFEST).is_file()


def open_blocks(
    source: str,
    *,
    tokenizer: Tokenizer | None,
    vocabulary: int,
    sequence_length: int,
    max_tokens: int | None = None,
    reading: Reading = PLAIN,
) -> Blocks:
    """The blocks of a prepared corpus, once its shards' checksums have been found right.

    Args:
        source: the directory.
        tokenizer: of the model that will read it.
        vocabulary: token ids must be below it.
        sequence_length: tokens of a block; of a corpus that was prepared in blocks, the most that
            these may have.
        max_tokens: only the blocks that `spaced` gives for so many are going to be read: other
            shards are not checked.
        reading: says where a beginning-of-text token stands; all else was said when the corpus was
            prepared.

    Raises:
        UserError: it is not finished, of another tokenizer or of other blocks than can be used, or
            a shard is missing or damaged.
    """
    directory, manifest = _open(source, tokenizer, vocabulary, reading)
    length = manifest.sequence_length or sequence_length
    if length > sequence_length:
        raise UserError(
            f"{source} has blocks of {length} tokens, more than the sequence length of "
            f"{sequence_length}"
        )
    if manifest.tokens < length:
        raise UserError(
            f"{source} is too short: {manifest.tokens} tokens, less than one block of {length}"
        )
    first = of_blocks(reading, tokenizer)
    blocks = Blocks(directory.absolute(), manifest.shards, length, first)
    needed = manifest.shards
    if max_tokens is not None:
        numbers = blocks.shards_of(spaced(len(blocks), length, max_tokens))
        needed = [manifest.shards[number] for number in numbers]
    check(directory, needed, MADE_BY)
    return blocks


def read_stream(
    source: str,
    *,
    tokenizer: Tokenizer | None,
    vocabulary: int,
    max_tokens: int | None,
    reading: Reading = PLAIN,
) -> NDArray[np.int32]:
    """The first tokens of a prepared corpus, shape [N].

    The arguments are those of `open_blocks`; no more than `max_tokens` are read.

    Raises:
        UserError: as of `open_blocks`.
    """
    directory, manifest = _open(source, tokenizer, vocabulary, reading)
    most = manifest.tokens if max_tokens is None else min(max_tokens, manifest.tokens)
    ends = np.cumsum([shard.tokens for shard in manifest.shards])
    needed = manifest.shards[: int(np.searchsorted(ends, most)) + 1]
    check(directory, needed, MADE_BY)
    tokens = [map_tokens(directory / shard.file) for shard in needed]
    return np.concatenate([np.empty(0, np.int32), *tokens])[:most].astype(np.int32)


def _open(
    source: str, tokenizer: Tokenizer | None, vocabulary: int, reading: Reading
) -> tuple[Path, Manifest]:
    directory = Path(source)
    if not (directory / MANIFEST).is_file():
        raise UserError(f"{source} is not finished: run the same `evo prepare` again")
    manifest = Manifest.load(directory)
    made_by = (manifest.tokenizer_hash, manifest.end_of_text)
    if tokenizer is not None and made_by != (tokenizer.hash, tokenizer.end_of_text):
        raise UserError(
            f"{source} was prepared with another tokenizer than the model's: give `evo prepare` "
            "the model's own directory as --tokenizer"
        )
    # A stream without the token can still be cut to blocks that begin with it.
    if reading.bos != manifest.bos and (reading.bos, manifest.bos) != ("block", "none"):
        raise UserError(
            f"--bos {reading.bos}: {source} was prepared with --bos {manifest.bos}: give that, or "
            "prepare it anew"
        )
    largest = max((shard.largest for shard in manifest.shards), default=0)
    if largest >= vocabulary:
        raise UserError(
            f"{source} has token id {largest}, but the model's vocabulary ends at {vocabulary - 1}"
        )
    return directory, manifest
