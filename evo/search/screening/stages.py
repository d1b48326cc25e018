"""The text of a search cut into shards and stages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from evo.search.screening.rung_settings import Rungs

FEWEST_SEQUENCES = 2
"""The least sequences of a stage; with one, searches ended worse (benchmarks/search/rungs.md)."""


@dataclass(frozen=True)
class Stages:
    """The text cut into shards, so that every stage is a whole number of them.

    Attributes:
        sizes: sequences that have been scored when each stage ends, increasing; the last is all.
        rows_per_shard: the most sequences of a shard.
        begin: the sequence that is scored first; after the text's last comes its first.
    """

    sizes: tuple[int, ...]
    rows_per_shard: int
    begin: int = 0

    @classmethod
    def of(cls, rungs: Rungs, sequences: int, rows_per_shard: int) -> Stages:
        """Cut a text.

        Args:
            rungs: the stages; each has `FEWEST_SEQUENCES` at least, and a stage that then comes
                out at more than half of the next, as in a short text, is left out.
            sequences: the text's.
            rows_per_shard: the most sequences of a shard.
        """
        sizes = [sequences]
        for share in reversed(rungs.shares):
            size = max(FEWEST_SEQUENCES, math.ceil(share * sequences))
            if 2 * size <= sizes[0]:
                sizes.insert(0, size)
        return cls(tuple(sizes), rows_per_shard)

    def rotated(self, generation: int) -> Stages:
        """The same stages, screening on other sequences than in the generation before.

        A search whose candidates are always chosen on the same few sequences learns these
        (benchmarks/search/rungs.md). A single stage is not rotated.
        """
        step = self.sizes[0] % self.sizes[-1]
        return replace(self, begin=generation * step % self.sizes[-1])

    @cached_property
    def shards(self) -> tuple[tuple[int, int], ...]:
        """First sequence of each shard, and the one after its last."""
        return tuple(shard for stage in self._cut for shard in stage)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """How many shards have been scored when each stage ends."""
        return tuple(accumulate(len(stage) for stage in self._cut))

    def sequences(self, end: int) -> NDArray[np.int64]:
        """The sequences of the first `end` shards, in the order in which they are scored."""
        return np.concatenate([np.arange(*shard) for shard in self.shards[:end]])

    @cached_property
    def _cut(self) -> list[list[tuple[int, int]]]:
        """The shards of each stage; no shard goes on beyond the text's end."""
        count = self.sizes[-1]
        stages = []
        for first, last in pairwise((0, *self.sizes)):
            begin, end = self.begin + first, self.begin + last
            middle = min(max(count, begin), end)
            stages.append(
                self._shards(begin, middle) + self._shards(max(begin, count) - count, end - count)
            )
        return stages

    def _shards(self, begin: int, end: int) -> list[tuple[int, int]]:
        starts = range(begin, end, self.rows_per_shard)
        return [(start, min(start + self.rows_per_shard, end)) for start in starts]


def spread(count: int) -> NDArray[np.int64]:
    """An order of the numbers below `count` of which every beginning is evenly spread.

    The numbers are sorted by their bits read backwards (van der Corput 1935). Texts are in the
    order of their documents, whose front is no fair sample of them.
    """
    bits = max(1, (count - 1).bit_length())
    numbers = np.arange(2**bits)
    mirrored = np.zeros_like(numbers)
    for bit in range(bits):
        mirrored |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    return mirrored[mirrored < count]
