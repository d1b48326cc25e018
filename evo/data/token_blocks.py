"""Corpora to token blocks.

`evo.data.sources` says what a source is. Documents are tokenised, each is followed by the
end-of-text token, and the stream is packed into blocks. What was tokenised is cached by content and
tokenizer (see `evo.storage.cache`). What `evo prepare` wrote needs no tokenising.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from evo.data.prepared_corpus import is_prepared, open_blocks, read_stream
from evo.data.reading import PLAIN, Reading, Skipped
from evo.data.reading.beginning_of_text import cut, of_blocks, of_documents
from evo.data.reading.npy_files import has_rows, load_npy, npy_tokens
from evo.data.sources import SourceRange, parts, paths_of
from evo.data.token_shards import Blocks, spaced
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer
from evo.storage.cache import cached

Tokens = NDArray[np.int32]
Item = TypeVar("Item")
LONGEST_DEFAULT_SEQUENCE = 2048
SAMPLED_TOKENS = 2**25
"""A text up to this long is read whole, also where less is used."""

MOST_TOKENS = 2**28
"""Tokens that are read of a data set of the hub, which may have no end, by default."""

DOCUMENTS_PER_BATCH = 512
CHARACTERS_PER_BATCH = 2**20
"""The tokenizer's own record of a batch takes a hundred bytes per token."""


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
    reading: Reading = PLAIN,
) -> Text:
    """Read, tokenise and pack a source.

    Args:
        source: see `evo.data.sources`.
        tokenizer: not needed for `.npy`.
        vocabulary: token ids must be below it.
        sequence_length: tokens of a block. Rows of a 2-D `.npy`, and blocks of a corpus that was
            prepared in blocks, keep their own length, which may not exceed it.
        max_tokens: use no more than so many tokens, in blocks evenly spaced in what is read: the
            front of a text is no fair sample of it. Read are the first 33M tokens, or `max_tokens`
            if those are more; of a stream from the hub, which may have no end, just these; of a
            prepared corpus, the blocks themselves, out of all of it.
        reading: how documents are read.

    Raises:
        UserError: an unknown source, one that cannot be read, or text shorter than one block.
    """
    if sequence_length < 2:
        raise UserError(
            f"a sequence length of {sequence_length} leaves nothing to predict: give at least 2"
        )
    blocks: Tokens | Blocks
    if is_prepared(source):
        blocks = open_blocks(
            source,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            sequence_length=sequence_length,
            max_tokens=max_tokens,
            reading=reading,
        )
    elif has_rows(source):
        if reading.bos != "none":
            raise UserError(
                f"--bos {reading.bos}: {source} has rows, which are blocks as they are: put the "
                "token into them, or give --bos none"
            )
        blocks = np.concatenate([load_npy(path) for path in paths_of(source)])
        if blocks.shape[1] > sequence_length:
            raise UserError(
                f"{source} has rows of {blocks.shape[1]} tokens, more than the sequence "
                f"length of {sequence_length}"
            )
    else:
        stream = _stream(source, tokenizer, _tokens_to_read(source, max_tokens), reading)
        blocks = cut(stream, sequence_length, of_blocks(reading, tokenizer))
        if not len(blocks):
            raise UserError(
                f"{source} is too short: {len(stream)} tokens, less than one block of "
                f"{sequence_length}"
            )
    numbers = spaced(len(blocks), blocks.shape[1], max_tokens)
    # The blocks of a prepared corpus are read only now.
    blocks = blocks[numbers] if len(numbers) < len(blocks) else blocks[:]
    check_ids(source, blocks, vocabulary)
    return _text(source, np.ascontiguousarray(blocks, np.int32))


def _text(source: str, blocks: Tokens) -> Text:
    digest = hashlib.blake2b(np.array(blocks.shape, "<i8").tobytes(), digest_size=8)
    digest.update(blocks.data)
    note = f"Python {platform.python_version()}" if source.startswith("stdlib:") else ""
    return Text(source, blocks, digest.hexdigest(), note)


def load_stream(
    source: str,
    *,
    tokenizer: Tokenizer | None,
    vocabulary: int,
    max_tokens: int | None = None,
    reading: Reading = PLAIN,
) -> Tokens:
    """The token ids of a source one after the other, shape [N].

    The source, tokenizer, vocabulary and reading are as for `load_text`. No more than `max_tokens`
    are read, or than the first 33M if those are more.

    Raises:
        UserError: an unknown source, one that cannot be read, or a 2-D `.npy`, whose rows do not
            follow each other.
    """
    if has_rows(source):
        raise UserError(f"{source} holds rows, each for itself: there is no text to slide over")
    if reading.bos == "block":
        raise UserError(
            "--bos block: sequences that overlap are no blocks: give --bos document or none"
        )
    most = _tokens_to_read(source, max_tokens)
    if is_prepared(source):
        return read_stream(
            source, tokenizer=tokenizer, vocabulary=vocabulary, max_tokens=most, reading=reading
        )
    stream = _stream(source, tokenizer, most, reading)
    check_ids(source, stream, vocabulary)
    return stream


def check_ids(source: str, tokens: Tokens, vocabulary: int) -> None:
    """Make sure that token ids are a model's.

    Raises:
        UserError: one is below 0, or beyond the vocabulary.
    """
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        raise UserError(
            f"{source} has token id {low if low < 0 else high}, but the model's "
            f"vocabulary ends at {vocabulary - 1}"
        )


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


def _stream(
    source: str, tokenizer: Tokenizer | None, max_tokens: int | None, reading: Reading
) -> Tokens:
    pieces: list[Tokens] = []
    total = 0
    for part in parts(source, reading):
        for piece in _tokens_of(part, tokenizer):
            pieces.append(piece)
            total += len(piece)
            if max_tokens is None and part.kind == "hf" and total > MOST_TOKENS:
                raise UserError(
                    f"{source} has more than {MOST_TOKENS / 1e6:,.0f}M tokens: say with "
                    "--max-tokens how many to use, or run `evo prepare` on it"
                )
            if max_tokens is not None and total >= max_tokens:
                return np.concatenate(pieces)
    if not total:
        raise UserError(f"{source} is empty: there is no text in it")
    return np.concatenate(pieces)


def _tokens_of(part: SourceRange, tokenizer: Tokenizer | None) -> Iterator[Tokens]:
    # A stream from the hub may have no end: only what is asked for is read, and nothing is cached.
    key = None if part.kind == ".npy" else part.cache_key()
    if key is None or tokenizer is None:
        yield from part_tokens(part, tokenizer)
        return
    bos = of_documents(part.reading, tokenizer)
    with_bos = "" if bos is None else f"-{bos}"
    name = f"tokens/{key}-{tokenizer.hash}-{tokenizer.end_of_text}{with_bos}.safetensors"
    tokens, skipped = cached(name, partial(_read_tokens, part, tokenizer), _save, _load)
    skipped.tell(part.name)
    yield tokens


def _read_tokens(part: SourceRange, tokenizer: Tokenizer) -> tuple[Tokens, Skipped]:
    """All token ids of a part, and the lines that were left out."""
    skipped = Skipped()
    tokens = [np.empty(0, np.int32), *part_tokens(part, tokenizer, skipped)]
    return np.concatenate(tokens), skipped


def _save(read: tuple[Tokens, Skipped], path: Path) -> None:
    tokens, skipped = read
    save_file({"tokens": tokens}, path, metadata={"skipped": str(skipped.count)})


def _load(path: Path) -> tuple[Tokens, Skipped]:
    with safe_open(path, framework="numpy") as file:
        return file.get_tensor("tokens"), Skipped(int(file.metadata()["skipped"]))


def part_tokens(
    part: SourceRange, tokenizer: Tokenizer | None, skipped: Skipped | None = None
) -> Iterator[Tokens]:
    """The token ids of a part of a source, 1-D, some thousands at once.

    Only text needs the tokenizer, not a `.npy`. Bad lines are counted in `skipped`, or told.

    Raises:
        UserError: it cannot be read.
    """
    if part.kind == ".npy":
        yield from npy_tokens(part)
    elif tokenizer is None:
        raise UserError(
            f"{part.name} is text, but the checkpoint has no tokenizer: give token ids "
            "as .npy, or import the checkpoint with its tokenizer"
        )
    else:
        bos = of_documents(part.reading, tokenizer)
        yield from tokenise(part.documents(skipped), tokenizer, bos)


def tokenise(
    documents: Iterable[str], tokenizer: Tokenizer, bos: int | None = None
) -> Iterator[Tokens]:
    """The token ids of documents, and the end-of-text token after each; empty ones are left out.

    `bos` is a token that is put before each; None: none is.
    """
    begin = np.array([] if bos is None else [bos], np.int32)
    end = np.array([tokenizer.end_of_text], np.int32)
    for batch in batches_of(filter(None, documents), len):
        encoded = tokenizer.encode(batch)
        yield np.concatenate([ids for tokens in encoded for ids in (begin, tokens, end)])


def batches_of(items: Iterable[Item], characters: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Items in lists that are neither long nor large; a large one is alone.

    `characters` gives the length of an item's document.
    """
    batch: list[Item] = []
    size = 0
    for item in items:
        more = characters(item)
        if batch and (len(batch) == DOCUMENTS_PER_BATCH or size + more > CHARACTERS_PER_BATCH):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += more
    if batch:
        yield batch
