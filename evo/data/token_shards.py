"""Token ids in Arrow files, memory-mapped, and blocks that are read from them by their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evo.errors import UserError, first_line
from evo.storage.checksums import Summed, checksum
from evo.storage.files import atomic_file

COLUMN = "tokens"


@dataclass(frozen=True)
class Shard(Summed):
    """A file of token ids.

    Attributes:
        tokens: how many there are in it.
        largest: the largest of them.
    """

    tokens: int
    largest: int


def write_shard(path: Path, tokens: NDArray[Any]) -> Shard:
    """Write token ids as an Arrow file of one column and one batch.

    The token ids are 1-D, and at least one. The file appears when it is whole.

    Raises:
        UserError: it cannot be written.
    """
    batch = pa.record_batch([pa.array(tokens)], names=[COLUMN])
    with (
        atomic_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    size, digest = path.stat().st_size, checksum(path)
    return Shard(path.name, size, digest, tokens=len(tokens), largest=int(tokens.max()))


def map_tokens(path: Path) -> NDArray[Any]:
    """The token ids of a shard, memory-mapped, 1-D.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).column(COLUMN).to_numpy()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is no shard that can be read: {first_line(error)}") from error


def spaced(blocks: int, length: int, max_tokens: int | None) -> NDArray[np.int64]:
    """Numbers of blocks evenly spaced among all.

    Args:
        blocks: how many there are.
        length: tokens of a block.
        max_tokens: no more than so many; None: all.

    Raises:
        UserError: these are less than one block.
    """
    if max_tokens is None:
        return np.arange(blocks)
    count = min(max_tokens // length, blocks)
    if count < 1:
        raise UserError(f"--max-tokens {max_tokens} is less than one block of {length} tokens")
    return np.arange(count) * blocks // count


class Blocks:
    """Stretches of the stream that shards make together: the n-th is from n T to (n + 1) T.

    Indexed like an array of shape [N, T], by a slice or by an array of numbers; what that gives is
    an array. Nothing else is read. Pickled, it is only a handle: who unpickles it maps the files.

    Args:
        directory: of the shards.
        shards: in their order, together at least one block long.
        length: tokens of a block, T.
        first: a token with which each block begins, before T - 1 tokens of the stream; None: all
            are of the stream.
    """

    def __init__(
        self, directory: Path, shards: Sequence[Shard], length: int, first: int | None = None
    ) -> None:
        self._paths = [directory / shard.file for shard in shards]
        self._ends = np.cumsum([shard.tokens for shard in shards], dtype=np.int64)
        self._mapped: dict[int, NDArray[Any]] = {}
        self._first, self._step = first, length if first is None else length - 1
        self.shape = (int(self._ends[-1]) // self._step, length)
        content = [length, *(part for shard in shards for part in (shard.tokens, shard.checksum))]
        content += [] if first is None else ["begins with", first]
        self.hash = hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Tokens in all blocks."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, numbers: slice | NDArray[Any]) -> NDArray[np.int32]:
        if isinstance(numbers, slice):
            numbers = np.arange(*numbers.indices(len(self)))
        blocks = np.empty((len(numbers), self.shape[1]), np.int32)
        if self._first is not None:
            blocks[:, 0] = self._first
        for block, number in zip(blocks, numbers, strict=True):
            self._read(int(number) * self._step, block[-self._step :])
        return blocks

    def shards_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the shards that some blocks lie in, rising."""
        first = np.searchsorted(self._ends, numbers * self._step, side="right")
        last = np.searchsorted(self._ends, (numbers + 1) * self._step - 1, side="right")
        ranges = [np.arange(*ends) for ends in zip(first, last + 1, strict=True)]
        return np.unique(np.concatenate(ranges))

    def _read(self, start: int, block: NDArray[np.int32]) -> None:
        """Fill a block from a place in the stream on, from as many shards as it takes."""
        shard = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < len(block):
            tokens = self._tokens(shard)
            offset = start + filled - (int(self._ends[shard]) - len(tokens))
            part = tokens[offset : offset + len(block) - filled]
            block[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1

    def _tokens(self, shard: int) -> NDArray[Any]:
        if shard not in self._mapped:
            self._mapped[shard] = map_tokens(self._paths[shard])
        return self._mapped[shard]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}
