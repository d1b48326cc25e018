"""The progress of `evo prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evo.data.chunks import Piece
from evo.data.tokenise_chunk import Record
from evo.progress import WorkProgress, duration, seconds_left


class PrepareProgress(WorkProgress):
    """Shows how much of a corpus is tokenised; a context manager.

    Args:
        name: the name of the corpus.
        pieces: all pieces of it.
        finished: the records of the pieces that were finished before, by their numbers.
    """

    def __init__(self, name: str, pieces: Sequence[Piece], finished: Mapping[int, Record]) -> None:
        sizes = [piece.size for piece in pieces if piece.size is not None]
        self._sizes = sizes if len(sizes) == len(pieces) else [1] * len(pieces)
        self._rest = sum(self._sizes) - sum(self._sizes[number] for number in finished)
        self._count, self._done, self._tokens = len(finished), 0, 0
        super().__init__(name, self._rest)

    def advance(self, number: int, record: Record) -> None:
        """Count a finished piece."""
        self._count += 1
        self._done += self._sizes[number]
        self._tokens += record.tokens
        left = seconds_left(self.seconds, self._done, self._rest - self._done)
        self.update(
            self._done,
            f"{self._count}/{len(self._sizes)} pieces, {self._tokens:,} tokens, "
            f"{self._tokens / max(self.seconds, 1e-9):,.0f} tokens/s, {duration(left)} left",
        )
