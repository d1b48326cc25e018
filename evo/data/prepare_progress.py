"""The progress of `evo prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evo.data.chunks import Chunk
from evo.data.tokenise_chunk import Record
from evo.progress import WorkProgress, duration, seconds_left


class PrepareProgress(WorkProgress):
    """Shows how much of a corpus is tokenised; a context manager.

    `finished` has the records of the chunks that were finished before, by their numbers.
    """

    def __init__(self, name: str, chunks: Sequence[Chunk], finished: Mapping[int, Record]) -> None:
        sizes = [chunk.size for chunk in chunks if chunk.size is not None]
        self._sizes = sizes if len(sizes) == len(chunks) else [1] * len(chunks)
        self._rest = sum(self._sizes) - sum(self._sizes[number] for number in finished)
        self._count, self._done, self._tokens = len(finished), 0, 0
        super().__init__(name, self._rest)

    def advance(self, number: int, record: Record) -> None:
        """Count a finished chunk."""
        self._count += 1
        self._done += self._sizes[number]
        self._tokens += record.tokens
        left = seconds_left(self.seconds, self._done, self._rest - self._done)
        self.update(
            self._done,
            f"{self._count}/{len(self._sizes)} chunks, {self._tokens:,} tokens, "
            f"{self._tokens / max(self.seconds, 1e-9):,.0f} tokens/s, {duration(left)} left",
        )
